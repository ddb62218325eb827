"""What every backbone has: four stages of residual blocks, of which the first are frozen and some deformable.

Stages are counted from 1, as in the names layer1 to layer4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gfl.limits import require
from gfl.tensors import recompute as recomputation
from gfl.tensors.deform import Version, init_offsets
from gfl.tensors.layers import init_conv, init_norm
from gfl.tensors.variables import Variables, child

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # depth -> blocks of each stage


@dataclass(frozen=True)
class StagesConfig:
    """The settings that all backbones share."""

    depth: int = 50
    base_width: int = 64  # channels of the stem; stage s is named after 2**(s - 1) times as many
    frozen_stages: int = 1  # last layer that is not trained, after the stem; 0: the stem alone; -1: all are trained
    deformable: Version | None = None  # deformable 3x3 convolutions, in v2 with masks
    deformable_stages: tuple[int, ...] = (2, 3, 4)  # where `deformable` holds

    def __post_init__(self) -> None:
        require(self, base_width=(1, 512))
        if not -1 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages={self.frozen_stages}: expected -1..4")
        if not self.deformable_stages or not set(self.deformable_stages) <= {1, 2, 3, 4}:
            raise ValueError(
                f"deformable_stages={self.deformable_stages}: expected stages from 1 to 4; deformable=None is for none"
            )
        if self.deformable not in (None, "v1", "v2"):
            raise ValueError(f"deformable={self.deformable!r}: expected one of [None, 'v1', 'v2']")
        if self.deformable and not self.bottleneck:
            raise ValueError(f"deformable={self.deformable!r} with depth={self.depth}: expected a depth from 50 on")

    @property
    def bottleneck(self) -> bool:
        """Whether a block is a bottleneck (1x1, 3x3, 1x1), not a basic block (3x3, 3x3)."""
        return self.depth >= 50

    @property
    def out_channels(self) -> tuple[int, int, int]:
        """Channels of C3, C4 and C5."""
        return (self.channels(2), self.channels(3), self.channels(4))

    def channels(self, stage: int) -> int:
        """Channels that leave a stage."""
        return (self.base_width << (stage - 1)) * (4 if self.bottleneck else 1)


def init_stages(init_block: Callable[[str, int, int], Variables], cfg: StagesConfig, path: str) -> Variables:
    """layer1 to layer4; init_block: (path, channels in, stage) -> the variables of a block."""
    layers: Variables = {}
    in_channels = cfg.base_width
    for stage, blocks in enumerate(BLOCKS[cfg.depth], start=1):
        layer: Variables = {}
        for index in range(blocks):
            layer[str(index)] = init_block(f"{path}.layer{stage}.{index}", in_channels, stage)
            in_channels = cfg.channels(stage)
        layers[f"layer{stage}"] = layer
    return layers


def init_3x3(seed: int, path: str, channels: int, cfg: StagesConfig, stage: int, *, groups: int = 1) -> Variables:
    """A 3x3 convolution of a bottleneck, with its offsets where the stage is deformable."""
    convolution = init_conv(seed, path, channels, channels // groups, 3, init="kaiming")
    if cfg.deformable and stage in cfg.deformable_stages:
        convolution["conv_offset"] = init_offsets(channels, cfg.deformable)
    return convolution


def init_frozen_bn(channels: int, scale: float = 1.0) -> Variables:
    """A batch-norm with frozen statistics, under mmdetection's names."""
    statistics = {"running_mean": torch.zeros(channels), "running_var": torch.ones(channels)}
    return {**init_norm(channels, scale), **statistics, "num_batches_tracked": torch.zeros((), dtype=torch.int64)}


def apply_stages(
    prepared: Variables,
    x: Tensor,
    cfg: StagesConfig,
    stem: Callable[[Tensor], Tensor],
    block: Callable[[Variables, Tensor, int], Tensor],
    *,
    recompute: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised (B,3,H,W) -> C3, C4, C5 at strides 8, 16, 32.

    block: (its variables, input, stride) -> output.
    recompute: keep of the stem and of each stage its result alone, and compute the rest again for the gradient.
    """

    def apply_stage(stage: int, x: Tensor) -> Tensor:
        """But for layer1, the first block of a stage has stride 2."""
        for index in range(BLOCKS[cfg.depth][stage - 1]):
            x = block(child(prepared, f"layer{stage}.{index}"), x, 2 if stage > 1 and index == 0 else 1)
        return x

    x = recomputation.call(stem, x, recompute=recompute)
    outputs = []
    for stage in range(1, 5):
        x = recomputation.call(partial(apply_stage, stage), x, recompute=recompute)
        outputs.append(x)
    return outputs[1], outputs[2], outputs[3]


def is_frozen(path: str, cfg: StagesConfig) -> bool:
    """Whether training leaves the variable at this path, below the backbone, as it is."""
    if path.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked"):
        return True
    if not path.startswith("layer"):
        return cfg.frozen_stages >= 0
    return int(path[len("layer")]) <= cfg.frozen_stages
