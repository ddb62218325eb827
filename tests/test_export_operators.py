"""The operators of an exported file, each with its reason. A new one is a decision, for some runtime lacks it."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from small_models import CANVAS_HW, KINDS, lively, small

from export.graph import example_inputs, graph_of, trace
from export.translate import lower, to_onnx
from gfl.model import detector
from gfl.model.detector import DetectorConfig
from gfl.model.postprocess import PredictConfig
from gfl.runtime.description import INPUT_NAMES

NETWORK = {  # every form has these
    "Add": "biases, shortcuts, the FPN's sums",
    "Cast": "uint8 pictures and int32 sizes to float32, the outputs back to int32",
    "Clip": "masks of pixels and cells, edges of the picture",
    "Concat": "the levels' cells; corners of boxes",
    "Conv": "the network",
    "Div": "by the pixels' standard deviation",
    "Gather": "one of two coordinates; rows of the tables of centres and strides",
    "InstanceNormalization": "GroupNorm, which opset 17 lacks, on groups as channels",
    "MatMul": "the DGQP's two layers; the rounds of NMS",
    "MaxPool": "the stem",
    "Min": "masks, boxes within the picture, intersections",
    "Mul": "masks, scales, products of probabilities",
    "ReduceMean": "the DGQP's mean",
    "Relu": "the network; the rounds of NMS",
    "Reshape": "cells in a row, groups as channels",
    "Resize": "the FPN",
    "Sigmoid": "scores",
    "Softmax": "the distribution of an edge",
    "Sub": "the pixels' mean, distances to borders and edges",
    "TopK": "the DGQP's largest probabilities; candidates and detections",
    "Transpose": "cells before channels",
    "Unsqueeze": "axes to broadcast along",
}
BOXES = {
    "Floor": "padded sizes; the row of a candidate",
    "ReduceSum": "the mean of a distribution",
    "Slice": "corners and foreground classes",
}
CHOICE = {
    "Abs": "whether a round of NMS changed something",
    "Equal": "boxes of one class",
    "Expand": "indices for GatherElements",
    "GatherElements": "candidates by index",
    "Greater": "thresholds of score and IoU",
    "Less": "order of candidates; filled slots",
    "Max": "intersections",
    "ReduceMax": "an anchor's best class; whether a round of NMS changed something",
    "Sqrt": "the standard deviation of an edge",
    "Squeeze": "counts without the axis that they were compared along",
    "Where": "what empty slots hold",
}
SOFT = {
    "ArgMax": "the best box that is left",
    "Exp": "the Gaussian decay",
    "GreaterOrEqual": "the least score",
    "LessOrEqual": "whether all pairs took part",
    "Or": "whether anything was missed",
}
DEFORMABLE = {  # in the network of `raw`
    "And": "sampled points within the picture",
    "Floor": "the pixel of a sampled point",
    "Greater": "sampled points within the picture",
    "Less": "sampled points within the picture",
    "Pad": "the border of zeros, which pixels outside are read from",
    "Slice": "offsets and masks, which one convolution gives",
    "Squeeze": "sums of table rows",
    "Where": "points outside read the border",
}
RAW = {"Split": "the levels apart"}
DETECTIONS = NETWORK.keys() | BOXES.keys() | CHOICE.keys()

MODEL = small("gn", frozen_stages=-1)
FEW = PredictConfig(rounds=2, candidates=8, max_detections=2)  # for a small graph
FORMS = {
    "detections": (replace(MODEL, predict=FEW), "detections", DETECTIONS),
    "decoded": (MODEL, "decoded", NETWORK.keys() | BOXES.keys()),
    "raw": (MODEL, "raw", NETWORK.keys() | RAW.keys()),
    "soft": (
        replace(MODEL, predict=replace(FEW, nms="soft_gaussian")),
        "detections",
        (DETECTIONS | SOFT.keys()) - {"Abs"},
    ),
    "deformable": (KINDS["r50 deformable with masks"], "raw", NETWORK.keys() | RAW.keys() | DEFORMABLE.keys()),
}


@pytest.mark.parametrize(
    ("cfg", "outputs", "expected"),
    [
        pytest.param(*form, id=name, marks=[pytest.mark.slow] * (name not in ("detections", "soft")))
        for name, form in FORMS.items()
    ],
)
def test_a_file_has_the_operators_that_are_written_here(cfg: DetectorConfig, outputs: str, expected: set[str]) -> None:
    variables = lively(cfg)
    graph = graph_of(outputs, CANVAS_HW, cfg)
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    program = trace(graph.function, prepared.tree, example_inputs(1, CANVAS_HW))
    nodes = to_onnx(program, INPUT_NAMES, graph.output_names).model.graph.node
    assert {node.op_type for node in nodes} == expected
    assert not any(attribute.name == "allowzero" and attribute.i for node in nodes for attribute in node.attribute)


def test_a_reshape_to_a_size_of_zero_keeps_what_the_zero_means() -> None:
    made = [onnx.helper.make_node("Reshape", ["x", shape], [shape[::-1]], allowzero=1) for shape in ("of 0", "of 1")]
    shapes = [onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], [int(name[-1])]) for name in ("of 0", "of 1")]
    model = onnx.helper.make_model(onnx.helper.make_graph(made, "graph", [], [], shapes))
    lower(model)
    assert [[attribute.name for attribute in node.attribute] for node in model.graph.node] == [["allowzero"], []]
