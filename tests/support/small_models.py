"""Small detectors and batches for tests of the model, and a tree that notes which of its variables are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import golden_cases
import numpy as np
import pytest
import torch
from torch import Tensor

from gfl.model import detector
from gfl.model.backbones import BackboneConfig
from gfl.model.backbones.res2net import Res2NetConfig
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.prepare import Prepared
from gfl.model.structures import Batch
from gfl.tensors.precision import FP32, Policy
from gfl.tensors.variables import Variables

CANVAS_HW = (64, 96)


def small(
    norm: Literal["frozen_bn", "gn"] = "frozen_bn",
    depth: Literal[18, 34, 50, 101] = 18,
    frozen_stages: int = 1,
    convs: int = 2,
) -> DetectorConfig:
    """A detector of a few thousand weights."""
    return DetectorConfig(
        num_classes=3,
        backbone=ResNetConfig(depth=depth, base_width=8, norm=norm, gn_groups=4, frozen_stages=frozen_stages),
        neck=FPNConfig(16),
        head=HeadConfig(channels=16, convs=convs, gn_groups=4, quality_channels=8),
    )


def with_backbone(backbone: BackboneConfig) -> DetectorConfig:
    """A small detector with another backbone."""
    return replace(small(), backbone=backbone)


KINDS = {
    "r18 frozen_bn": small(),
    "r18 gn, all trained": small("gn", frozen_stages=-1),
    "r18 gn, stem frozen": small("gn", frozen_stages=0),
    "r34 frozen_bn": small(depth=34, frozen_stages=2),
    "r50 frozen_bn": small(depth=50),
    "r50 frozen_bn, all trained": small(depth=50, frozen_stages=-1),
    "r50 gn, all frozen": small("gn", depth=50, frozen_stages=4),
    "head without towers": small(convs=0),
    "x50": with_backbone(ResNetConfig(depth=50, base_width=8, groups=4, group_width=2)),
    "x50 gn": with_backbone(ResNetConfig(50, 8, groups=4, group_width=2, norm="gn", gn_groups=4, frozen_stages=-1)),
    "r50 deformable": with_backbone(ResNetConfig(depth=50, base_width=8, deformable="v1")),
    "r50 deformable with masks": with_backbone(
        ResNetConfig(depth=50, base_width=8, deformable="v2", deformable_stages=(4,))
    ),
    "r2n50": with_backbone(Res2NetConfig(depth=50, base_width=8, scale_width=4)),
    "r2n50 deformable": with_backbone(
        Res2NetConfig(depth=50, base_width=8, scale_width=4, deformable="v1", deformable_stages=(3, 4))
    ),
    "gfl v1": replace(small(), head=HeadConfig(16, convs=2, gn_groups=4, quality="none", background_channel=False)),
}
BY_KIND = pytest.mark.parametrize("cfg", KINDS.values(), ids=KINDS.keys())


def batch_of(count: int = 2, seed: int = 0) -> Batch:
    """Pictures of noise, the last smaller than the canvas, each with boxes."""
    rng = np.random.default_rng(seed)
    sizes = [CANVAS_HW] * (count - 1) + [(50, 61)]
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    boxes = [
        np.array([[5.3, 6.1, 40.7, 45.9], [20.1, 10.3, 60.2, 48.4]], np.float32)[: 1 + i % 2] for i in range(count)
    ]
    labels = [np.arange(len(b), dtype=np.int32) for b in boxes]
    return golden_cases.stack(pictures, boxes, labels, canvas_hw=CANVAS_HW, slots=3)


def lively(cfg: DetectorConfig) -> Variables:
    """Variables of which none is zero, so that nothing hides behind a branch that starts at zero."""
    return golden_cases.filled(detector.init(cfg))


def prepared_of(variables: Variables, cfg: DetectorConfig, policy: Policy = FP32) -> Prepared:
    return detector.prepare(variables, detector.freeze(variables, cfg), policy)


class ReadTree(dict[str, Tensor | Variables]):
    """A tree of variables that notes the paths of the leaves that are read."""

    def __init__(self, tree: Variables, read: set[str], prefix: str = "") -> None:
        super().__init__()
        self.read, self.prefix = read, prefix
        for name, node in tree.items():
            self[name] = node if isinstance(node, Tensor) else ReadTree(node, read, f"{prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor | Variables:
        node: Tensor | Variables = super().__getitem__(name)
        if isinstance(node, Tensor):
            self.read.add(self.prefix + name)
        return node


def read_by(apply: Callable[[Variables], object], variables: Variables) -> set[str]:
    """The paths that `apply` reads."""
    read: set[str] = set()
    with torch.no_grad():
        apply(ReadTree(variables, read))
    return read
