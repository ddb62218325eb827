"""The rules of a static graph, which ONNX Runtime and CANN take, and what in a written .onnx breaks them.

Everything is read from the file: what the exporter was asked for proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import resources

import onnx
import onnx.checker
import onnx.shape_inference
from onnx import TensorProto

from export.translate import IR_VERSION, OPSET

_TABLE = resources.files(__package__).joinpath("cann_operators.txt").read_text(encoding="utf-8")
TABLE = frozenset(name for line in _TABLE.splitlines() if not line.startswith("#") for name in line.split())

# Operators of CANN's table whose outputs have no fixed shape, and those that draw random numbers.
DYNAMIC = {"Compress", "NonMaxSuppression", "NonZero"}
RANDOM = {"Multinomial", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
CANN_OPERATORS = TABLE - DYNAMIC - RANDOM

# int64 may be made as an index or a shape and moved about; nothing is computed in it, because NPUs do so slowly or not.
_INT64 = """
    ArgMax ArgMin Cast Concat Constant ConstantOfShape Expand Gather Identity Reshape Shape Slice Split Squeeze Tile
    TopK Transpose Unsqueeze
"""
INT64_OPERATORS = frozenset(_INT64.split())

DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",  # of constants, shapes and indices only: see INT64_OPERATORS
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}

# Allowed on top in an int8 file, which is for ONNX Runtime on CPU and CUDA: CANN's table has no such operators.
INT8_OPERATORS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def violations(model: onnx.ModelProto, precision: str = "fp32") -> tuple[str, ...]:
    """Every way in which a model breaks the rules of a static graph, a sentence each; empty when there is none.

    The rules: opset and IR version, operators, no control flow, every tensor with a fixed shape, no float64, nothing
    computed in int64, all weights inside the file. precision 'int8' also allows the two operators of quantisation and
    tensors of int8.
    """
    operators, dtypes = CANN_OPERATORS, DTYPES
    if precision == "int8":
        operators, dtypes = operators | INT8_OPERATORS, {**dtypes, TensorProto.INT8: "int8"}
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return (f"not valid ONNX: {error}",)
    return (*_versions(model), *_operators(model, operators), *_tensors(inferred, dtypes))


def _versions(model: onnx.ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or opset.version > OPSET:
            yield f"opset {opset.domain or 'ai.onnx'} {opset.version}, expected ai.onnx {OPSET} or lower"
    if model.ir_version > IR_VERSION:
        yield f"IR version {model.ir_version}, expected {IR_VERSION} or lower"
    if model.functions:
        yield f"{len(model.functions)} functions of its own, expected none"


def _operators(model: onnx.ModelProto, allowed: Collection[str]) -> Iterator[str]:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in allowed:
            yield f"operator {node.domain}{'.' if node.domain else ''}{node.op_type} ({node.name}): not of CANN's list"
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            yield f"operator {node.op_type} ({node.name}) holds a graph: control flow"


def _tensors(inferred: onnx.ModelProto, allowed: Mapping[int, str]) -> Iterator[str]:
    """Shapes, dtypes and places of everything that a node takes or makes, in a model after shape inference."""
    graph = inferred.graph
    dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
    fixed = set(dtypes)
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dtypes[value.name] = kind.elem_type
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
            fixed.add(value.name)
    for name in (*(value.name for value in graph.input), *(name for node in graph.node for name in node.output)):
        if name and name not in fixed:
            yield f"{name} has no fixed shape"
    for name, dtype in dtypes.items():
        if dtype not in allowed:
            yield f"{name} is {TensorProto.DataType.Name(dtype).lower()}, expected one of {', '.join(allowed.values())}"
    for value in graph.output:
        if dtypes[value.name] == TensorProto.INT64:
            yield f"the output {value.name} is int64, expected int32"
    for node in graph.node:
        if node.op_type not in INT64_OPERATORS and any(dtypes.get(out) == TensorProto.INT64 for out in node.output):
            yield f"operator {node.op_type} ({node.name}) computes in int64"
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield f"{tensor.name} lies in another file"
