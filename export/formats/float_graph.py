"""Edits of an .onnx for runtimes whose inputs are float32, and whose files may end at the head's outputs."""

from __future__ import annotations

import re

import onnx
from onnx import TensorProto

from export.errors import CheckError
from export.formats.interface import Conversion

# What the NumPy part that follows raw outputs knows nothing of.
UNKNOWN = re.compile(r"(keep_background|keep_padding_cells|nms_pre) = (?!False\b|None\b|0\b)(\S+)")


def check_raw(job: Conversion) -> None:
    """Raise CheckError for a setting that `gfl.runtime.decode` does not follow."""
    if unknown := UNKNOWN.search(job.description.config):
        raise CheckError(f"{job.source} cannot be finished in NumPy", [f"it has {unknown[0]}, expected the default"])


def float_inputs(model: onnx.ModelProto) -> None:
    """Make the inputs float32, in place, and leave out the casts that made them so."""
    graph = model.graph
    names = {value.name for value in graph.input}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in names}
    for value in graph.input:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [node for node in graph.node if node.output[0] not in casts]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = casts.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)
