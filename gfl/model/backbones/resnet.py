"""ResNet (arXiv 1512.03385) in PyTorch's variant, where a bottleneck's stride sits in its 3x3 convolution, and ResNeXt
(arXiv 1611.05431), whose 3x3 convolutions have groups.

Two norms. 'frozen_bn', the paper's recipe: batch-norm with frozen statistics, whose weight and bias are trained, and
which `detector.prepare` folds into the convolution before it. 'gn', for training from random weights: GroupNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from gfl.limits import ANY, require
from gfl.model.backbones.stages import BLOCKS, StagesConfig, apply_stages, init_3x3, init_frozen_bn, init_stages
from gfl.tensors.deform import conv_or_deformable
from gfl.tensors.layers import group_norm, init_conv, init_norm
from gfl.tensors.variables import Variables, child, leaf

NORM_PREFIX = {"frozen_bn": "bn", "gn": "gn"}  # mmdetection names a norm after its kind: bn1, gn1


@dataclass(frozen=True)
class ResNetConfig(StagesConfig):
    """Depth, width, groups and norm of the backbone."""

    depth: Literal[18, 34, 50, 101] = 50
    groups: int = 1  # of the 3x3 convolutions; of ResNeXt-101 32x4d: 32
    group_width: int = 4  # with several groups: channels of each in layer1; each further stage doubles it
    norm: Literal["frozen_bn", "gn"] = "frozen_bn"
    gn_groups: int = 32

    def __post_init__(self) -> None:
        for name, choices in (("depth", BLOCKS), ("norm", NORM_PREFIX)):  # gin checks types; Python callers have none
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {list(choices)}")
        super().__post_init__()
        require(self, gn_groups=(1, ANY), groups=(1, 1024), group_width=(1, 512))
        if self.groups > 1 and not self.bottleneck:
            raise ValueError(f"groups={self.groups} with depth={self.depth}: expected a depth from 50 on, or groups=1")
        for name, width in (("base_width", self.base_width), ("groups * group_width", self.width(1))):
            if self.norm == "gn" and width % self.gn_groups:
                raise ValueError(f"{name}={width}: expected a multiple of gn_groups={self.gn_groups}")

    def width(self, stage: int) -> int:
        """Channels of the 3x3 convolutions of a stage."""
        first: int = self.groups * self.group_width if self.groups > 1 else self.base_width
        return first << (stage - 1)


def init(seed: int, cfg: ResNetConfig, path: str = "backbone") -> Variables:
    """Random variables; the last norm of each residual branch starts at zero."""
    stem: Variables = {
        "conv1": init_conv(seed, f"{path}.conv1", cfg.base_width, 3, 7, init="kaiming"),
        f"{NORM_PREFIX[cfg.norm]}1": _init_norm(cfg, cfg.base_width),
    }
    return stem | init_stages(partial(_init_block, seed, cfg), cfg, path)


def apply(
    prepared: Variables, x: Tensor, cfg: ResNetConfig, *, recompute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised (B,3,H,W) -> C3, C4, C5 at strides 8, 16, 32; recompute: as of `stages.apply_stages`."""
    stem, block = partial(_stem, prepared, cfg), partial(_block, cfg)
    return apply_stages(prepared, x, cfg, stem, block, recompute=recompute)


def _init_norm(cfg: ResNetConfig, channels: int, scale: float = 1.0) -> Variables:
    return init_frozen_bn(channels, scale) if cfg.norm == "frozen_bn" else init_norm(channels, scale)


def _init_block(seed: int, cfg: ResNetConfig, path: str, in_channels: int, stage: int) -> Variables:
    """A block, with a convolution in its shortcut where the channels change: only in the first of a stage."""
    prefix = NORM_PREFIX[cfg.norm]
    width, out_channels = cfg.width(stage), cfg.channels(stage)
    if cfg.bottleneck:
        convolutions = [
            init_conv(seed, f"{path}.conv1", width, in_channels, 1, init="kaiming"),
            init_3x3(seed, f"{path}.conv2", width, cfg, stage, groups=cfg.groups),
            init_conv(seed, f"{path}.conv3", out_channels, width, 1, init="kaiming"),
        ]
    else:
        convolutions = [
            init_conv(seed, f"{path}.conv1", width, in_channels, 3, init="kaiming"),
            init_conv(seed, f"{path}.conv2", width, width, 3, init="kaiming"),
        ]
    block: Variables = {}
    for i, convolution in enumerate(convolutions, start=1):
        block[f"conv{i}"] = convolution
        channels = leaf(convolution, "weight").shape[0]
        block[f"{prefix}{i}"] = _init_norm(cfg, channels, scale=0.0 if i == len(convolutions) else 1.0)
    if in_channels != out_channels:
        block["downsample"] = {
            "0": init_conv(seed, f"{path}.downsample.0", out_channels, in_channels, 1, init="kaiming"),
            "1": _init_norm(cfg, out_channels),
        }
    return block


def _stem(prepared: Variables, cfg: ResNetConfig, x: Tensor) -> Tensor:
    """A 7x7 convolution and a pooling, each of stride 2."""
    x = F.relu(_conv_norm(prepared, "conv1", x, cfg, stride=2, padding=3))
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _block(cfg: ResNetConfig, block: Variables, x: Tensor, stride: int) -> Tensor:
    """A basic block (3x3, 3x3) or a bottleneck (1x1, 3x3, 1x1) with its shortcut."""
    if cfg.bottleneck:
        y = F.relu(_conv_norm(block, "conv1", x, cfg))
        y = F.relu(_conv_norm(block, "conv2", y, cfg, stride=stride, padding=1, groups=cfg.groups))
        y = _conv_norm(block, "conv3", y, cfg)
    else:
        y = F.relu(_conv_norm(block, "conv1", x, cfg, stride=stride, padding=1))
        y = _conv_norm(block, "conv2", y, cfg, padding=1)
    if "downsample" in block:
        x = _conv_norm(block, "downsample.0", x, cfg, stride=stride)
    return F.relu(y + x)


def _conv_norm(
    block: Variables, name: str, x: Tensor, cfg: ResNetConfig, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """A convolution and its norm; a frozen batch-norm is folded into the prepared convolution already."""
    x = conv_or_deformable(child(block, name), x, stride=stride, padding=padding, groups=groups)
    if cfg.norm == "frozen_bn":
        return x
    norm = "downsample.1" if name == "downsample.0" else name.replace("conv", "gn")
    return group_norm(child(block, norm), x, cfg.gn_groups)
