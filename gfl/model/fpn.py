"""Feature pyramid network (arXiv 1612.03144) as GFL uses it: P6 and P7 are convolved from P5, with no ReLU between."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gfl.limits import require
from gfl.tensors.layers import conv, init_conv, upsample_nearest
from gfl.tensors.variables import Variables, child


@dataclass(frozen=True)
class FPNConfig:
    """Width of the pyramid."""

    channels: int = 256  # of every level

    def __post_init__(self) -> None:
        require(self, channels=(1, 4096))


def init(seed: int, in_channels: tuple[int, int, int], cfg: FPNConfig, path: str = "neck") -> Variables:
    """Random variables: Xavier-uniform 1x1 convolutions of C3..C5 and 3x3 convolutions of P3..P7, biases zero."""
    lateral: Variables = {}
    for i, channels in enumerate(in_channels):
        name = f"{path}.lateral_convs.{i}.conv"
        lateral[str(i)] = {"conv": init_conv(seed, name, cfg.channels, channels, 1, init="xavier", bias=0.0)}
    output: Variables = {}
    for i in range(5):
        name = f"{path}.fpn_convs.{i}.conv"
        output[str(i)] = {"conv": init_conv(seed, name, cfg.channels, cfg.channels, 3, init="xavier", bias=0.0)}
    return {"lateral_convs": lateral, "fpn_convs": output}


def apply(prepared: Variables, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """C3, C4, C5 -> P3..P7, each (B,channels,H,W), at strides 8, 16, 32, 64, 128."""
    sums = [conv(child(prepared, f"lateral_convs.{i}.conv"), feature) for i, feature in enumerate(features)]
    for i in (1, 0):
        size_hw = (sums[i].shape[2], sums[i].shape[3])
        sums[i] = sums[i] + upsample_nearest(sums[i + 1], size_hw)
    outputs = [conv(child(prepared, f"fpn_convs.{i}.conv"), x, padding=1) for i, x in enumerate(sums)]
    for i in (3, 4):
        outputs.append(conv(child(prepared, f"fpn_convs.{i}.conv"), outputs[-1], stride=2, padding=1))
    return tuple(outputs)
