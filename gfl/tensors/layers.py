"""Layers as init/apply pairs over a subtree of variables.

A layer computes in the dtype of its weights, which `prepare` has cast, and casts its input to match. Norms and
interpolation compute in float32, as in Apex's O1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.tensors.onednn import conv2d
from gfl.tensors.variables import Variables, generator_for, leaf


def init_conv(
    seed: int,
    path: str,
    out_channels: int,
    in_channels: int,
    kernel: int,
    *,
    init: Literal["kaiming", "xavier", "normal"],
    bias: float | None = None,
) -> Variables:
    """A convolution's weight (O,I,k,k), and bias (O,) filled with a number, unless that is None.

    init: 'kaiming' (normal, fan out, for ReLU), 'xavier' (uniform) or 'normal' (standard deviation 0.01).
    """
    shape = (out_channels, in_channels, kernel, kernel)
    generator = generator_for(seed, f"{path}.weight")
    if init == "kaiming":
        std = math.sqrt(2.0 / (out_channels * kernel * kernel))
        weight = torch.randn(shape, generator=generator) * std
    elif init == "xavier":
        bound = math.sqrt(6.0 / ((in_channels + out_channels) * kernel * kernel))
        weight = (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
    else:
        weight = torch.randn(shape, generator=generator) * 0.01
    variables: Variables = {"weight": weight}
    if bias is not None:
        variables["bias"] = torch.full((out_channels,), bias)
    return variables


def conv(
    variables: Variables, x: Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Tensor:
    """2-D convolution, with a bias where the variables have one: (B,I,H,W) -> (B,O,H',W')."""
    weight = leaf(variables, "weight")
    bias = leaf(variables, "bias") if "bias" in variables else None
    return conv2d(x.to(weight.dtype), weight, bias, stride, padding, dilation, groups)


def init_norm(channels: int, scale: float = 1.0) -> Variables:
    """A norm's affine part: weight (C,), filled with `scale`, and bias (C,), zero."""
    return {"weight": torch.full((channels,), scale), "bias": torch.zeros(channels)}


def group_norm(variables: Variables, x: Tensor, groups: int) -> Tensor:
    """GroupNorm with eps 1e-5, in float32: (B,C,H,W) -> (B,C,H,W)."""
    return F.group_norm(x.float(), groups, leaf(variables, "weight"), leaf(variables, "bias"), 1e-5)


def linear(variables: Variables, x: Tensor) -> Tensor:
    """A 1x1 convolution, weight (O,I,1,1), applied to the last axis: (...,I) -> (...,O)."""
    weight = leaf(variables, "weight").flatten(1)
    return F.linear(x.to(weight.dtype), weight, leaf(variables, "bias"))


def upsample_nearest(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Nearest-neighbour upsampling to an exact size, in float32: (B,C,h,w) -> (B,C,H,W)."""
    return F.interpolate(x.float(), size=size_hw, mode="nearest")
