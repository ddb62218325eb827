"""Layers as init/apply pairs over a subtree of variables.

The apply functions take their compute dtype from the weights: `prepare` casts the weights once a step,
a layer casts what it is given to match. Norms and interpolation run in float32 (the O1 recipe).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.tensors.variables import Variables, generator_for, leaf


def init_conv(
    seed: int,
    path: str,
    out_channels: int,
    in_channels: int,
    kernel: int,
    *,
    init: str,
    bias: float | None = None,
) -> Variables:
    """{weight (O,I,k,k) [, bias (O,)]}; init: 'kaiming' (fan out, ReLU), 'xavier' (uniform), 'normal' (std 0.01)."""
    shape = (out_channels, in_channels, kernel, kernel)
    generator = generator_for(seed, f"{path}.weight")
    if init == "kaiming":
        std = math.sqrt(2.0 / (out_channels * kernel * kernel))
        weight = torch.randn(shape, generator=generator) * std
    elif init == "xavier":
        bound = math.sqrt(6.0 / ((in_channels + out_channels) * kernel * kernel))
        weight = (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
    elif init == "normal":
        weight = torch.randn(shape, generator=generator) * 0.01
    else:
        raise ValueError(f"init={init!r}: expected 'kaiming', 'xavier' or 'normal'")
    variables: Variables = {"weight": weight}
    if bias is not None:
        variables["bias"] = torch.full((out_channels,), bias)
    return variables


def conv(variables: Variables, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """2-D convolution in the dtype of its weight. (B,I,H,W) -> (B,O,H',W')."""
    weight = leaf(variables, "weight")
    bias = leaf(variables, "bias") if "bias" in variables else None
    return F.conv2d(x.to(weight.dtype), weight, bias, stride, padding)


def init_norm(channels: int, scale: float = 1.0) -> Variables:
    """{weight (C,), bias (C,)} of a normalisation with an affine part."""
    return {"weight": torch.full((channels,), scale), "bias": torch.zeros(channels)}


def group_norm(variables: Variables, x: Tensor, groups: int) -> Tensor:
    """GroupNorm in float32 (eps 1e-5). (B,C,H,W) -> (B,C,H,W) float32."""
    return F.group_norm(x.float(), groups, leaf(variables, "weight"), leaf(variables, "bias"), 1e-5)


def linear(variables: Variables, x: Tensor) -> Tensor:
    """A 1x1 convolution applied to the last axis. (...,I) -> (...,O), in the dtype of its weight (O,I,1,1)."""
    weight = leaf(variables, "weight").flatten(1)
    return F.linear(x.to(weight.dtype), weight, leaf(variables, "bias"))


def upsample_nearest(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Nearest upsampling to an exact size, in float32 (the O1 recipe). (B,C,h,w) -> (B,C,H,W)."""
    return F.interpolate(x.float(), size=size_hw, mode="nearest")
