"""The plain ONNX graph that our export is measured against: backbone, neck and head alone, written node by node.

Its input is normalised already, batch-norm is folded into the convolutions, its outputs are the class and edge logits
of the five levels. It does not normalise, predict quality, decode boxes or select detections.
Shapes: B image, H, W of a level, C channels, G groups of a norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from benchmarks.plain import require_plain
from export.translate import IR_VERSION, OPSET
from gfl.model.anchors import make_grid
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.backbones.stages import BLOCKS
from gfl.model.detector import DetectorConfig
from gfl.model.head import HeadConfig
from gfl.model.prepare import Prepared
from gfl.shapes import Canvas
from gfl.tensors.variables import flatten

INPUT = "images"
NORM_EPS = 1e-5  # of GroupNorm

Shape = tuple[int, int, int, int]


class Draft(NamedTuple):
    """A graph under construction: every method adds to it what is missing, and returns the name of the result."""

    variables: dict[str, Tensor]  # a prepared tree, flattened
    nodes: list[onnx.NodeProto]
    weights: dict[str, onnx.TensorProto]

    def node(self, op: str, *inputs: str, **attributes: int | float | str | Sequence[int]) -> str:
        """One operator with one output."""
        name = f"{op}_{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """A tensor of the file; one, however often it is used."""
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def variable(self, path: str) -> str:
        """A variable of the model."""
        return self.constant(path, self.variables[path].detach().numpy())


def plain_graph(prepared: Prepared, batch: int, canvas_hw: Canvas, cfg: DetectorConfig) -> onnx.ModelProto:
    """Float32 (B,3,H,W), normalised -> cls (B,K,H,W) of P3..P7, then reg (B,4R,H,W) of P3..P7.

    cfg's backbone is a plain ResNet, whose norms `prepare` folds; ValueError for another.
    """
    draft = Draft(flatten(prepared.tree), [], {})
    shapes = make_grid(canvas_hw).shapes_hw
    pyramid = neck(draft, backbone(draft, INPUT, require_plain(cfg.backbone)))
    outputs = []
    for name, last in (("cls_convs", "gfl_cls"), ("reg_convs", "gfl_reg")):
        for x, shape_hw in zip(pyramid, shapes, strict=True):
            x = tower(draft, name, x, (batch, cfg.head.channels, *shape_hw), cfg.head)
            outputs.append(conv(draft, f"bbox_head.{last}", x, padding=1))
    graph = helper.make_graph(
        draft.nodes,
        "plain",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, (batch, 3, *canvas_hw))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(draft.weights.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def conv(draft: Draft, path: str, x: str, *, stride: int = 1, padding: int = 0) -> str:
    """A convolution with its bias, where it has one."""
    inputs = [draft.variable(f"{path}.{name}") for name in ("weight", "bias") if f"{path}.{name}" in draft.variables]
    side = draft.variables[f"{path}.weight"].shape[2]
    return draft.node("Conv", x, *inputs, kernel_shape=[side, side], strides=[stride, stride], pads=[padding] * 4)


def backbone(draft: Draft, x: str, cfg: ResNetConfig) -> list[str]:
    """ResNet: C3, C4, C5."""
    x = draft.node("Relu", conv(draft, "backbone.conv1", x, stride=2, padding=3))
    x = draft.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    outputs = []
    for stage, blocks in enumerate(BLOCKS[cfg.depth], start=1):
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(draft, f"backbone.layer{stage}.{index}", x, stride, cfg.bottleneck)
        outputs.append(x)
    return outputs[1:]


def block(draft: Draft, path: str, x: str, stride: int, bottleneck: bool) -> str:
    """A basic block or a bottleneck with its shortcut."""
    if bottleneck:
        y = draft.node("Relu", conv(draft, f"{path}.conv1", x))
        y = draft.node("Relu", conv(draft, f"{path}.conv2", y, stride=stride, padding=1))
        y = conv(draft, f"{path}.conv3", y)
    else:
        y = draft.node("Relu", conv(draft, f"{path}.conv1", x, stride=stride, padding=1))
        y = conv(draft, f"{path}.conv2", y, padding=1)
    if f"{path}.downsample.0.weight" in draft.variables:
        x = conv(draft, f"{path}.downsample.0", x, stride=stride)
    return draft.node("Relu", draft.node("Add", y, x))


def neck(draft: Draft, features: Sequence[str]) -> list[str]:
    """FPN: P3..P7, the last two from P5's output."""
    twice = draft.constant("twice", np.array([1, 1, 2, 2], np.float32))
    sums = [conv(draft, f"neck.lateral_convs.{i}.conv", x) for i, x in enumerate(features)]
    for i in (1, 0):
        larger = draft.node(
            "Resize",
            sums[i + 1],
            "",
            twice,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        sums[i] = draft.node("Add", sums[i], larger)
    outputs = [conv(draft, f"neck.fpn_convs.{i}.conv", x, padding=1) for i, x in enumerate(sums)]
    for i in (3, 4):
        outputs.append(conv(draft, f"neck.fpn_convs.{i}.conv", outputs[-1], stride=2, padding=1))
    return outputs


def tower(draft: Draft, name: str, x: str, shape_BCHW: Shape, cfg: HeadConfig) -> str:
    """The convolutions of one branch on one level, each with GroupNorm and ReLU."""
    for i in range(cfg.convs):
        x = conv(draft, f"bbox_head.{name}.{i}.conv", x, padding=1)
        x = draft.node("Relu", group_norm(draft, f"bbox_head.{name}.{i}.gn", x, shape_BCHW, cfg.gn_groups))
    return x


def group_norm(draft: Draft, path: str, x: str, shape_BCHW: Shape, groups: int) -> str:
    """GroupNorm as opset 17 has it: an instance norm of the groups, then the affine part."""
    grouped = draft.constant("grouped", np.array([shape_BCHW[0], groups, -1], np.int64))
    ones = draft.constant("ones", np.ones(groups, np.float32))
    zeros = draft.constant("zeros", np.zeros(groups, np.float32))
    x = draft.node("Reshape", x, grouped)
    x = draft.node("InstanceNormalization", x, ones, zeros, epsilon=NORM_EPS)
    x = draft.node("Reshape", x, draft.constant(f"shape {shape_BCHW}", np.array(shape_BCHW, np.int64)))
    for op, part in (("Mul", "weight"), ("Add", "bias")):
        value = draft.variables[f"{path}.{part}"].detach().numpy().reshape(-1, 1, 1)
        x = draft.node(op, x, draft.constant(f"{path}.{part}", value))
    return x
