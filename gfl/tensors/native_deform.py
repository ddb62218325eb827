"""Deformable convolution by a device's own operator, where it has one: torchvision's on CUDA, CANN's on NPUs.

Both compute in float32 here, since they take one dtype for everything, and float16 is too coarse for places.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """How the kernel moves over the input, as in `torch.nn.functional.conv2d`."""

    stride: int
    padding: int
    dilation: int
    groups: int


# input, offsets, weight, bias, mask, window -> output, as `deform.deform_conv`
Operator = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Window], Tensor]


def operator_for(device: torch.device) -> Operator | None:
    """The operator to use on a device; None on a CPU, and where its package is missing or does not work."""
    if device.type == "npu" and hasattr(torch.ops.npu, "npu_deformable_conv2d"):
        return by_cann
    if device.type == "cuda" and _torchvision_works():
        return by_torchvision
    return None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch gives this decorator no types
@cache
def _torchvision_works() -> bool:
    """Whether torchvision is installed and fits this torch: one that was built for another has no operators."""
    try:
        importlib.import_module("torchvision")
        return hasattr(torch.ops.torchvision, "deform_conv2d")
    except Exception:  # a library that does not load raises what it likes
        return False


def by_torchvision(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, window: Window
) -> Tensor:
    """torchvision's operator, whose rules for places and borders are the same."""
    stride, padding, dilation = ((n, n) for n in (window.stride, window.padding, window.dilation))
    masks = offsets.new_zeros((x.shape[0], 1)) if mask is None else mask
    given = (x.float(), weight.float(), offsets, masks, _bias_of(weight, bias))
    groups = (window.groups, _deform_groups(offsets, weight))
    y: Tensor = torch.ops.torchvision.deform_conv2d(*given, *stride, *padding, *dilation, *groups, mask is not None)
    return y.to(weight.dtype)


def by_cann(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, window: Window
) -> Tensor:
    """torch_npu's operator. It takes first all dx, then all dy, then the masks; not run on an NPU by us."""
    dy, dx = offsets[:, ::2], offsets[:, 1::2]
    places = torch.cat([dx, dy, torch.ones_like(dx) if mask is None else mask], dim=1)
    y: Tensor = torch.ops.npu.npu_deformable_conv2d(
        x.float(),
        weight.float(),
        places,
        _bias_of(weight, bias),
        kernel_size=list(weight.shape[2:]),
        stride=[1, 1, window.stride, window.stride],
        padding=[window.padding] * 4,
        dilation=[1, 1, window.dilation, window.dilation],
        groups=window.groups,
        deformable_groups=_deform_groups(offsets, weight),
        modulated=True,
    )[0]
    return y.to(weight.dtype)


def _bias_of(weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight.new_zeros(weight.shape[0], dtype=torch.float32) if bias is None else bias.float()


def _deform_groups(offsets: Tensor, weight: Tensor) -> int:
    return offsets.shape[1] // (2 * weight.shape[2] * weight.shape[3])
