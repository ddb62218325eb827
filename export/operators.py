"""The ONNX operators that an exported file may hold, by the table of CANN's operators beside this file."""

from __future__ import annotations

from importlib import resources

_TABLE = resources.files(__package__).joinpath("cann_operators.txt").read_text(encoding="utf-8")
TABLE = frozenset(name for line in _TABLE.splitlines() if not line.startswith("#") for name in line.split())

# Operators of the table whose outputs have no fixed shape, and those that draw random numbers.
DYNAMIC = {"Compress", "NonMaxSuppression", "NonZero"}
RANDOM = {"Multinomial", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
CANN_OPERATORS = TABLE - DYNAMIC - RANDOM

# int64 may be made as an index or a shape and moved about; nothing is computed in it, because NPUs do so slowly or not.
_INT64 = """
    ArgMax ArgMin Cast Concat Constant ConstantOfShape Expand Gather Identity Reshape Shape Slice Split Squeeze Tile
    TopK Transpose Unsqueeze
"""
INT64_OPERATORS = frozenset(_INT64.split())
