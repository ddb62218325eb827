"""Edits of an .onnx for runtimes whose inputs are float32."""

from __future__ import annotations

import onnx
from onnx import TensorProto


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
