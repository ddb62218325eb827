"""From a function of PyTorch to an ONNX model that CANN's parser takes: opset 17, IR 8, one file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import onnx
import torch
from onnx import numpy_helper
from torch.export import ExportedProgram

from export.bags import without_bags
from export.graph import Exported, example_inputs, trace, tree_spec_warnings_ignored
from gfl.model.prepare import Prepared
from gfl.runtime.description import INPUT_NAMES, Description

OPSET = 17  # the last that CANN's parser takes (ONNX 1.12)
# What ONNX 1.12 wrote beside opset 17, and ONNX Runtime from 1.12 to the newest takes. Later ones brought float8, int4,
# overloads and notes on nodes, of which a detector has none.
IR_VERSION = 8
TORCH_OPSET = 18  # what PyTorch's exporter writes; asked for less, its way down fails on constants and it keeps 18

# What opset 18 changed in operators that exist in 17; everything else that a detector needs is the same in both.
_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"
REDUCTIONS = frozenset(_REDUCTIONS.split())
NEW_ATTRIBUTES: dict[str, dict[str, int | bytes]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    **{name: {"noop_with_empty_axes": 0} for name in REDUCTIONS},
}


class Translation(NamedTuple):
    """A model, and the program that it was translated from: its values bear the names of the program's."""

    model: onnx.ModelProto
    program: ExportedProgram  # with composite operations taken apart as in the model


def translate(graph: Exported, prepared: Prepared, description: Description) -> Translation:
    """Trace an exported function with its weights, at the batch and canvas of the description, and translate it."""
    program = trace(graph.function, prepared.tree, example_inputs(description.batch, description.size))
    return to_onnx(program, INPUT_NAMES, graph.output_names)


def to_onnx(program: ExportedProgram, input_names: Sequence[str], output_names: Sequence[str]) -> Translation:
    """Translate a static program; `export.check` says whether the outcome is what it should be."""
    with _quiet():
        translated = torch.onnx.export(
            without_bags(program),
            dynamo=True,
            opset_version=TORCH_OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            verbose=False,
        )
    if translated is None or translated.exported_program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = translated.model_proto
    lower(model)
    _tidy(model)
    return Translation(model, translated.exported_program)


def lower(model: onnx.ModelProto) -> None:
    """Opset 18 -> 17, in place: axes of reductions become attributes, attributes that 18 brought are dropped.

    An operator that is new in 18, or a new attribute that is in use, stays as it is: the check of the file finds it.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in REDUCTIONS and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]])
            node.attribute.append(onnx.helper.make_attribute("axes", axes.tolist()))
            del node.input[1]
        # Some runtimes refuse `allowzero`, which says what a 0 in a shape means: where there is none, nothing.
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and 0 not in numpy_helper.to_array(shape):
            del node.attribute[:]
        # Of opset 17 a Split without sizes has equal parts; the check of the file finds one that cannot.
        defaults = (
            {"num_outputs": len(node.output)} if node.op_type == "Split" else NEW_ATTRIBUTES.get(node.op_type, {})
        )
        for attribute in [attribute for attribute in node.attribute if attribute.name in defaults]:
            if onnx.helper.get_attribute_value(attribute) == defaults[attribute.name]:
                node.attribute.remove(attribute)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))


def _tidy(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes, which name files of this machine, and lower the IR version; in place."""
    model.ir_version = min(model.ir_version, IR_VERSION)
    graph = model.graph
    graph.name, graph.doc_string = "gfl", ""
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tree_spec_warnings_ignored():
            yield
    finally:
        logger.setLevel(level)
