"""Res2Net (arXiv 1904.01169) in its variant v1b: the 3x3 convolution of a bottleneck is a chain of narrow ones.

Beside that it has a stem of three 3x3 convolutions, and shortcuts that pool before their 1x1 convolution. All norms are
batch-norms with frozen statistics, which `detector.prepare` folds into the convolution before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.limits import require
from gfl.model.backbones.stages import StagesConfig, apply_stages, init_3x3, init_frozen_bn, init_stages
from gfl.tensors.deform import conv_or_deformable
from gfl.tensors.layers import conv, init_conv
from gfl.tensors.variables import Variables, child


@dataclass(frozen=True)
class Res2NetConfig(StagesConfig):
    """Depth, and how a bottleneck is divided; the defaults are Res2Net-101 v1b 26w 4s."""

    depth: Literal[50, 101] = 101
    scales: int = 4  # parts of the channels in a bottleneck, of which all but one are convolved
    scale_width: int = 26  # channels of a part in layer1; each further stage doubles it

    def __post_init__(self) -> None:
        if self.depth not in (50, 101):
            raise ValueError(f"depth={self.depth!r}: expected one of [50, 101]")
        super().__post_init__()
        require(self, base_width=(2, 512), scales=(2, 64), scale_width=(1, 512))


def init(seed: int, cfg: Res2NetConfig, path: str = "backbone") -> Variables:
    """Random variables; the last norm of each residual branch starts at zero."""
    stem: Variables = {}
    half = cfg.base_width // 2
    for index, (out_channels, in_channels) in enumerate(((half, 3), (half, half), (cfg.base_width, half))):
        name = str(3 * index)  # between two convolutions stand a norm and a ReLU
        stem[name] = init_conv(seed, f"{path}.stem.{name}", out_channels, in_channels, 3, init="kaiming")
        stem[str(3 * index + 1)] = init_frozen_bn(out_channels)
    return {"stem": stem, **init_stages(partial(_init_block, seed, cfg), cfg, path)}


def apply(
    prepared: Variables, x: Tensor, cfg: Res2NetConfig, *, recompute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised (B,3,H,W) -> C3, C4, C5 at strides 8, 16, 32; recompute: as of `stages.apply_stages`."""
    stem = partial(_stem, child(prepared, "stem"))
    return apply_stages(prepared, x, cfg, stem, partial(_block, cfg.scales), recompute=recompute)


def _init_block(seed: int, cfg: Res2NetConfig, path: str, in_channels: int, stage: int) -> Variables:
    """A bottleneck, with a convolution in its shortcut where the channels change: only in the first of a stage."""
    width, out_channels = cfg.scale_width * 2 ** (stage - 1), cfg.channels(stage)
    block: Variables = {
        "conv1": init_conv(seed, f"{path}.conv1", width * cfg.scales, in_channels, 1, init="kaiming"),
        "bn1": init_frozen_bn(width * cfg.scales),
        "convs": {str(i): init_3x3(seed, f"{path}.convs.{i}", width, cfg, stage) for i in range(cfg.scales - 1)},
        "bns": {str(i): init_frozen_bn(width) for i in range(cfg.scales - 1)},
        "conv3": init_conv(seed, f"{path}.conv3", out_channels, width * cfg.scales, 1, init="kaiming"),
        "bn3": init_frozen_bn(out_channels, scale=0.0),
    }
    if in_channels != out_channels:  # downsample.0 is the pooling
        block["downsample"] = {
            "1": init_conv(seed, f"{path}.downsample.1", out_channels, in_channels, 1, init="kaiming"),
            "2": init_frozen_bn(out_channels),
        }
    return block


def _stem(stem: Variables, x: Tensor) -> Tensor:
    """Three 3x3 convolutions, the first of stride 2, and a pooling of stride 2."""
    for name, stride in (("0", 2), ("3", 1), ("6", 1)):
        x = F.relu(conv(child(stem, name), x, stride=stride, padding=1))
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _block(scales: int, block: Variables, x: Tensor, stride: int) -> Tensor:
    """A bottleneck with its shortcut. Its norms are folded into its convolutions."""
    first = "downsample" in block  # of its stage
    y = _chain(block, F.relu(conv(child(block, "conv1"), x)).chunk(scales, dim=1), stride, first=first)
    y = conv(child(block, "conv3"), y)
    if first:
        pooled = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x
        x = conv(child(block, "downsample.1"), pooled)
    return F.relu(y + x)


def _chain(block: Variables, parts: tuple[Tensor, ...], stride: int, *, first: bool) -> Tensor:
    """The 3x3 convolutions: each takes its own part and, but for the first block of a stage, the result before it too.

    The last part is not convolved; where the stride is 2 it is pooled.
    """
    results: list[Tensor] = []
    for i, part in enumerate(parts[:-1]):
        chained = part if first or i == 0 else results[-1] + part
        convolution = child(block, f"convs.{i}")
        results.append(F.relu(conv_or_deformable(convolution, chained, stride=stride, padding=1)))
    last = F.avg_pool2d(parts[-1], 3, stride, padding=1) if stride > 1 else parts[-1]
    return torch.cat([*results, last], dim=1)
