"""State dicts of a few small weights under this project's names."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = {
    "backbone.conv1.weight": (4, 3, 7, 7),
    "backbone.bn1.weight": (4,),
    "backbone.bn1.running_mean": (4,),
    "backbone.layer1.0.conv1.weight": (4, 4, 3, 3),
    "neck.lateral_convs.0.conv.bias": (8,),
    "bbox_head.gfl_cls.weight": (4, 8, 3, 3),
    "bbox_head.gfl_cls.bias": (4,),
    "bbox_head.scales.0.scale": (),
}


def random_state(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {path: torch.randn(shape, generator=generator) for path, shape in shapes.items()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(got) == list(expected)
    assert all(torch.equal(got[path], expected[path]) for path in expected)
