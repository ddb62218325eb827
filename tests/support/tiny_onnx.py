"""An .onnx with the surface of an export and one convolution inside, written without PyTorch in a moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gfl.runtime.description import Description, Thresholds

BATCH, H, W = 2, 64, 96
DETECTIONS = 100
DESCRIPTION = Description(
    version="0.0.0",
    outputs="detections",
    precision="fp32",
    names=("circle", "square", "ring"),
    category_ids=(1, 2, 8),
    batch=BATCH,
    size=(H, W),
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    short_side=64,
    long_side=96,
    thresholds=Thresholds(score=0.05, nms_iou=0.6, max_detections=DETECTIONS, candidates=1000, rounds=16),
    config="",
    score_thresholds=(0.3, 0.3, 0.3),
)


def write_onnx(
    path: Path, *, size: tuple[int, int] = (H, W), batch: int = BATCH, precision: str = "fp32", digest: str = ""
) -> Path:
    """One detection a picture: class 0 on the whole picture, its score the sigmoid of a mean of a convolution."""
    height, width = size
    onnx.save(
        _model(replace(DESCRIPTION, size=size, batch=batch, precision=precision, digest=digest), height, width), path
    )
    return path


def _model(about: Description, height: int, width: int) -> onnx.ModelProto:
    first = np.eye(1, DETECTIONS, dtype=np.float32)
    corners = np.zeros((2, 4 * DETECTIONS), np.float32)
    corners[1, 2] = corners[0, 3] = 1  # (height, width) -> x2, y2 of the first box
    constants = {
        "weight": np.full((1, 3, 3, 3), 1 / (27 * 255), np.float32),
        "first": first,
        "corners": corners,
        "boxes_shape": np.array([about.batch, DETECTIONS, 4], np.int64),
        "labels_of_all": np.tile(first.astype(np.int32) - 1, (about.batch, 1)),
        "ones": np.ones(about.batch, np.int32),
        "zeros": np.zeros((about.batch, DETECTIONS, 4), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "weight"], ["greys"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["greys"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["score"]),
        helper.make_node("Mul", ["score", "first"], ["scores"]),
        helper.make_node("Cast", ["image_sizes"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["sizes", "corners"], ["flat_boxes"]),
        helper.make_node("Reshape", ["flat_boxes", "boxes_shape"], ["boxes"]),
        helper.make_node("Identity", ["labels_of_all"], ["labels"]),
        helper.make_node("Identity", ["ones"], ["count"]),
        helper.make_node("Identity", ["zeros"], ["edge_std"]),
        helper.make_node("Identity", ["ones"], ["complete"]),
    ]
    slots = [about.batch, DETECTIONS]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            value("images", TensorProto.UINT8, [about.batch, 3, height, width]),
            value("image_sizes", TensorProto.INT32, [about.batch, 2]),
        ],
        [
            value("boxes", TensorProto.FLOAT, [*slots, 4]),
            value("scores", TensorProto.FLOAT, slots),
            value("labels", TensorProto.INT32, slots),
            value("count", TensorProto.INT32, [about.batch]),
            value("edge_std", TensorProto.FLOAT, [*slots, 4]),
            value("complete", TensorProto.INT32, [about.batch]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, about.to_metadata())
    return model
