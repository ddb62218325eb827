"""ResNet (arXiv 1512.03385) in PyTorch's variant, where a bottleneck's stride sits in its 3x3 convolution.

Two norms. 'frozen_bn', the paper's recipe: batch-norm with frozen statistics, whose weight and bias are trained, and
which `detector.prepare` folds into the convolution before it. 'gn', for training from random weights: GroupNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.limits import ANY, require
from gfl.tensors import recompute as recomputation
from gfl.tensors.layers import conv, group_norm, init_conv, init_norm
from gfl.tensors.variables import Variables, child

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # depth -> blocks of each stage
NORM_PREFIX = {"frozen_bn": "bn", "gn": "gn"}  # mmdetection names a norm after its kind: bn1, gn1


@dataclass(frozen=True)
class ResNetConfig:
    """Depth, width and norm of the backbone."""

    depth: Literal[18, 34, 50, 101] = 50
    base_width: int = 64  # channels of the stem and of layer1's 3x3 convolutions; each further stage doubles it
    norm: Literal["frozen_bn", "gn"] = "frozen_bn"
    gn_groups: int = 32
    frozen_stages: int = 1  # last layer that is not trained, after the stem; 0: the stem alone; -1: all are trained

    def __post_init__(self) -> None:
        for name, choices in (("depth", BLOCKS), ("norm", NORM_PREFIX)):  # gin checks types; Python callers have none
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {list(choices)}")
        require(self, base_width=(1, 512), gn_groups=(1, ANY))
        if self.norm == "gn" and self.base_width % self.gn_groups:
            raise ValueError(f"base_width={self.base_width}: expected a multiple of gn_groups={self.gn_groups}")
        if not -1 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages={self.frozen_stages}: expected -1..4")

    @property
    def bottleneck(self) -> bool:
        """Whether a block is a bottleneck (1x1, 3x3, 1x1), not a basic block (3x3, 3x3)."""
        return self.depth >= 50

    @property
    def out_channels(self) -> tuple[int, int, int]:
        """Channels of C3, C4 and C5."""
        expansion = 4 if self.bottleneck else 1
        return (2 * self.base_width * expansion, 4 * self.base_width * expansion, 8 * self.base_width * expansion)


def init(seed: int, cfg: ResNetConfig, path: str = "backbone") -> Variables:
    """Random variables; the last norm of each residual branch starts at zero."""
    prefix = NORM_PREFIX[cfg.norm]
    variables: Variables = {
        "conv1": init_conv(seed, f"{path}.conv1", cfg.base_width, 3, 7, init="kaiming"),
        f"{prefix}1": _init_norm(cfg, cfg.base_width),
    }
    in_channels = cfg.base_width
    for stage, blocks in enumerate(BLOCKS[cfg.depth], start=1):
        width = cfg.base_width * 2 ** (stage - 1)
        layer: Variables = {}
        for index in range(blocks):
            layer[str(index)] = _init_block(seed, f"{path}.layer{stage}.{index}", in_channels, width, cfg)
            in_channels = width * (4 if cfg.bottleneck else 1)
        variables[f"layer{stage}"] = layer
    return variables


def apply(
    prepared: Variables, x: Tensor, cfg: ResNetConfig, *, recompute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised (B,3,H,W) -> C3, C4, C5 at strides 8, 16, 32.

    recompute: keep of the stem and of each stage its result alone, and compute the rest again for the gradient.
    """
    x = recomputation.call(partial(_stem, prepared, cfg=cfg), x, recompute=recompute)
    outputs = []
    for stage in range(1, 5):
        x = recomputation.call(partial(_stage, prepared, stage, cfg=cfg), x, recompute=recompute)
        outputs.append(x)
    return outputs[1], outputs[2], outputs[3]


def is_frozen(path: str, cfg: ResNetConfig) -> bool:
    """Whether training leaves the variable at this path, below the backbone, as it is."""
    if path.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked"):
        return True
    if not path.startswith("layer"):
        return cfg.frozen_stages >= 0
    return int(path[len("layer")]) <= cfg.frozen_stages


def _init_norm(cfg: ResNetConfig, channels: int, scale: float = 1.0) -> Variables:
    """A norm's affine part and, of a batch-norm, its statistics under mmdetection's names."""
    norm = init_norm(channels, scale)
    if cfg.norm == "frozen_bn":
        norm["running_mean"] = torch.zeros(channels)
        norm["running_var"] = torch.ones(channels)
        norm["num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    return norm


def _init_block(seed: int, path: str, in_channels: int, width: int, cfg: ResNetConfig) -> Variables:
    """A block, with a convolution in its shortcut where the channels change: only in the first of a stage."""
    prefix = NORM_PREFIX[cfg.norm]
    out_channels = width * (4 if cfg.bottleneck else 1)
    if cfg.bottleneck:
        shapes = [(width, in_channels, 1), (width, width, 3), (out_channels, width, 1)]
    else:
        shapes = [(width, in_channels, 3), (width, width, 3)]
    block: Variables = {}
    for i, (out, into, kernel) in enumerate(shapes, start=1):
        block[f"conv{i}"] = init_conv(seed, f"{path}.conv{i}", out, into, kernel, init="kaiming")
        block[f"{prefix}{i}"] = _init_norm(cfg, out, scale=0.0 if i == len(shapes) else 1.0)
    if in_channels != out_channels:
        block["downsample"] = {
            "0": init_conv(seed, f"{path}.downsample.0", out_channels, in_channels, 1, init="kaiming"),
            "1": _init_norm(cfg, out_channels),
        }
    return block


def _stem(prepared: Variables, x: Tensor, cfg: ResNetConfig) -> Tensor:
    """A 7x7 convolution and a pooling, each of stride 2."""
    x = F.relu(_conv_norm(prepared, "conv1", x, cfg, stride=2, padding=3))
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _stage(prepared: Variables, stage: int, x: Tensor, cfg: ResNetConfig) -> Tensor:
    """The blocks of layer1 to layer4; but for layer1, the first has stride 2."""
    for index in range(BLOCKS[cfg.depth][stage - 1]):
        stride = 2 if stage > 1 and index == 0 else 1
        x = _block(child(prepared, f"layer{stage}.{index}"), x, stride, cfg)
    return x


def _block(block: Variables, x: Tensor, stride: int, cfg: ResNetConfig) -> Tensor:
    """A basic block (3x3, 3x3) or a bottleneck (1x1, 3x3, 1x1) with its shortcut."""
    if cfg.bottleneck:
        y = F.relu(_conv_norm(block, "conv1", x, cfg))
        y = F.relu(_conv_norm(block, "conv2", y, cfg, stride=stride, padding=1))
        y = _conv_norm(block, "conv3", y, cfg)
    else:
        y = F.relu(_conv_norm(block, "conv1", x, cfg, stride=stride, padding=1))
        y = _conv_norm(block, "conv2", y, cfg, padding=1)
    if "downsample" in block:
        x = _conv_norm(block, "downsample.0", x, cfg, stride=stride)
    return F.relu(y + x)


def _conv_norm(
    block: Variables, name: str, x: Tensor, cfg: ResNetConfig, *, stride: int = 1, padding: int = 0
) -> Tensor:
    """A convolution and its norm; a frozen batch-norm is folded into the prepared convolution already."""
    x = conv(child(block, name), x, stride=stride, padding=padding)
    if cfg.norm == "frozen_bn":
        return x
    norm = "downsample.1" if name == "downsample.0" else name.replace("conv", "gn")
    return group_norm(child(block, norm), x, cfg.gn_groups)
