"""LiteRT's int8 by TensorFlow's converter: the convolutions and what lies between them, but not the head's last ones.

`export.quantise` chooses the same. Here names are TensorFlow's, and scales are multiplied into weights; so the last
convolutions are known as those that no other follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.formats.interface import Conversion
from export.samples import read_feeds
from gfl.packages import import_package

CONVOLUTION = "CONV_2D"
BETWEEN = ("ADD", "MAX_POOL_2D", "PAD", "RELU")  # quantised where all that they read is


class Operation(NamedTuple):
    """One operator of a .tflite."""

    kind: str
    name: str  # of its first output, by which the converter knows it
    reads: tuple[int, ...]  # tensors that other operators write
    writes: tuple[int, ...]


class OperatorDetails(TypedDict):
    """What LiteRT says of an operator: its kind, and its tensors by number."""

    op_name: str
    inputs: Sequence[int]
    outputs: Sequence[int]


class TensorDetails(TypedDict):
    """What LiteRT says of a tensor."""

    index: int
    name: str


class Interpreter(Protocol):
    """The part of LiteRT's interpreter that is used here."""

    def _get_ops_details(self) -> Sequence[OperatorDetails]: ...
    def get_tensor_details(self) -> Sequence[TensorDetails]: ...


def quantised(model: object, plain: Path, job: Conversion) -> bytes:
    """The .tflite of a Keras model in int8, with ranges seen on the job's pictures; plain: the same in float32."""
    needed = "int8 of LiteRT needs the package {}, which"
    lite = import_package("tensorflow", needed.format("tensorflow"), "install it again").lite
    runtime = import_package("ai_edge_litert.interpreter", needed.format("ai-edge-litert"), "install it again")

    def feeds() -> Iterator[dict[str, NDArray[np.generic]]]:
        yield from map(dict, read_feeds(job.calibration, job.description))

    converter = lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [lite.Optimize.DEFAULT]
    converter.representative_dataset = feeds
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8, lite.OpsSet.TFLITE_BUILTINS]
    operations = read_operations(runtime.Interpreter(str(plain)))
    # What is called a debugger is the converter's way to leave operators in float32.
    options = lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=floating(operations),
        denylisted_ops=[*{each.kind for each in operations}.difference([CONVOLUTION, *BETWEEN])],  # some names are new
    )
    debugger = lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=feeds, debug_options=options)
    content: bytes = debugger.get_nondebug_quantized_model()
    return content


def pooled_over_zeros(path: Path, target: Path) -> None:
    """Write an .onnx whose maxima, of what a ReLU gives, are taken over padding of 0, which is never larger.

    TensorFlow pads with the least float32, which would be the end of an int8 range.
    """
    model = onnx.load(path)
    nodes = []
    for node in model.graph.node:
        pads = next((each for each in node.attribute if each.name == "pads" and any(each.ints)), None)
        if node.op_type == "MaxPool" and pads is not None:
            top, left, bottom, right = pads.ints
            around = [0, 0, top, left, 0, 0, bottom, right]
            name = f"{node.output[0]}_pads"
            model.graph.initializer.append(numpy_helper.from_array(np.array(around, np.int64), name))
            nodes.append(helper.make_node("Pad", [node.input[0], name], [f"{name}_with"]))
            node.input[0] = f"{name}_with"
            node.attribute.remove(pads)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def read_operations(interpreter: Interpreter) -> list[Operation]:
    """The operators of an open .tflite, each after those whose tensors it reads."""
    details = interpreter._get_ops_details()
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    written = {index for each in details for index in each["outputs"]}
    return [
        Operation(
            each["op_name"],
            names[each["outputs"][0]],
            tuple(index for index in each["inputs"] if index in written),
            tuple(each["outputs"]),
        )
        for each in details
    ]


def floating(operations: list[Operation]) -> list[str]:
    """Names of the operators that stay in float32."""
    before_convolution: set[int] = set()  # tensors from which a path leads to a convolution
    last: set[str] = set()
    for each in reversed(operations):
        leads = not before_convolution.isdisjoint(each.writes)
        if each.kind == CONVOLUTION and not leads:
            last.add(each.name)
        if each.kind == CONVOLUTION or leads:
            before_convolution.update(each.reads)
    rounded: set[int] = set()  # tensors in int8
    names = []
    for each in operations:
        convolves = each.kind == CONVOLUTION and each.name not in last
        if convolves or (each.kind in BETWEEN and each.reads and rounded.issuperset(each.reads)):
            rounded.update(each.writes)
        else:
            names.append(each.name)
    return names
