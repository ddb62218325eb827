"""Deformable convolution: against loops and finite differences, and what it is without offsets."""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.tensors import deform, native_deform
from gfl.tensors.deform import deform_conv, deformable, init_offsets
from gfl.tensors.layers import init_conv
from gfl.tensors.native_deform import Window, by_cann, by_torchvision

PLAIN = Window(1, 1, 1, 1)
WINDOWS = [PLAIN, Window(2, 1, 1, 1), Window(1, 2, 2, 2), Window(2, 0, 1, 2)]


def random_inputs(window: Window, *, masks: bool, deform_groups: int = 1) -> tuple[Tensor, ...]:
    """x, offsets, weight, bias, mask in float64; offsets away from whole numbers, where the slope jumps."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    x, weight, bias = normal(1, 4, 5, 6), normal(3 * window.groups, 4 // window.groups, 3, 3), normal(3 * window.groups)
    P, Q = F.conv2d(x, weight, None, *window[:3], groups=window.groups).shape[2:]
    offsets = 3 * normal(1, 18 * deform_groups, P, Q)
    offsets = torch.where((offsets - offsets.round()).abs() < 0.05, offsets.round() + 0.1, offsets)
    mask = normal(1, 9 * deform_groups, P, Q).sigmoid() if masks else normal(0)
    return x, offsets, weight, bias, mask


def by_loops(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, window: Window) -> Tensor:
    """The rule of the papers, one number after the other."""
    B, C, H, W = x.shape
    P, Q = offsets.shape[2:]
    per_deform_group = C // (offsets.shape[1] // 18)
    sampled = torch.zeros(B, C, 3 * P, 3 * Q, dtype=x.dtype)
    for b, c, p, q, k in product(*map(range, (B, C, P, Q, 9))):
        point = c // per_deform_group * 9 + k
        y = p * window.stride - window.padding + k // 3 * window.dilation + float(offsets[b, 2 * point, p, q])
        left = q * window.stride - window.padding + k % 3 * window.dilation + float(offsets[b, 2 * point + 1, p, q])
        value = torch.zeros((), dtype=x.dtype)
        if -1 < y < H and -1 < left < W:
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(left), math.floor(left) + 1):
                    if 0 <= row < H and 0 <= column < W:
                        value = value + (1 - abs(y - row)) * (1 - abs(left - column)) * x[b, c, row, column]
        sampled[b, c, 3 * p + k // 3, 3 * q + k % 3] = value if mask is None else value * mask[b, point, p, q]
    return F.conv2d(sampled, weight, bias, 3, groups=window.groups)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("window", "deform_groups"), [(PLAIN, 1), (WINDOWS[2], 2), (WINDOWS[3], 1)])
def test_it_is_the_papers_rule(window: Window, deform_groups: int, masks: bool) -> None:
    *inputs, mask = random_inputs(window, masks=masks, deform_groups=deform_groups)
    got = deform_conv(*inputs, mask if masks else None, window)
    torch.testing.assert_close(got, by_loops(*inputs, mask if masks else None, window), rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_are_those_of_finite_differences(window: Window) -> None:
    inputs = [tensor.requires_grad_() for tensor in random_inputs(window, masks=True)]
    assert torch.autograd.gradcheck(lambda *given: deform_conv(*given, window), inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", WINDOWS)
def test_without_offsets_it_is_an_ordinary_convolution(window: Window) -> None:
    x, offsets, weight, bias, _ = random_inputs(window, masks=False)
    got = deform_conv(x, torch.zeros_like(offsets), weight, bias, None, window)
    torch.testing.assert_close(got, F.conv2d(x, weight, bias, *window[:3], window.groups))


@pytest.mark.parametrize(("version", "strength"), [("v1", 1.0), ("v2", 0.5)])
def test_a_layer_starts_as_an_ordinary_convolution(version: deform.Version, strength: float) -> None:
    """With masks at half its strength, as the authors' layers start."""
    layer = init_conv(0, "x", 4, 4, 3, init="kaiming")
    layer["conv_offset"] = init_offsets(4, version)
    x = torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(1))
    ordinary = F.conv2d(x, layer["weight"], padding=1)  # type: ignore[arg-type]  # a leaf
    torch.testing.assert_close(deformable(layer, x, padding=1), strength * ordinary)


def test_an_offset_that_is_no_number_spoils_the_result_and_reads_nothing_outside() -> None:
    x, offsets, weight, bias, _ = random_inputs(PLAIN, masks=False)
    for value in (math.nan, math.inf, -math.inf):
        offsets[0, 3, 2, 1] = value
        assert not torch.isfinite(deform_conv(x, offsets, weight, bias, None, PLAIN)).all()
    offsets[0, 3, 2, 1] = 1e30  # a number: far outside, so 0
    assert torch.isfinite(deform_conv(x, offsets, weight, bias, None, PLAIN)).all()


# ---- the operators of devices, by stand-ins that compute the same: none has been run on a device ----


def check_native(operator: native_deform.Operator) -> None:
    for masks in (False, True):
        *inputs, mask = random_inputs(WINDOWS[2], masks=masks, deform_groups=2)
        inputs = [tensor.float() for tensor in inputs]
        given = mask.float() if masks else None
        got = operator(*inputs, given, WINDOWS[2])
        torch.testing.assert_close(got, deform_conv(*inputs, given, WINDOWS[2]), rtol=1e-5, atol=1e-5)


def test_torchvision_is_given_what_its_signature_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def deform_conv2d(
        x: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor,
        bias: Tensor,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        offset_groups: int,
        use_mask: bool,
    ) -> Tensor:
        assert (stride_h, pad_h, dilation_h) == (stride_w, pad_w, dilation_w)
        assert offset_groups == offset.shape[1] // 18
        window = Window(stride_h, pad_h, dilation_h, groups)
        return deform_conv(x, offset, weight, bias, mask if use_mask else None, window)

    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace(deform_conv2d=deform_conv2d), raising=False)
    check_native(by_torchvision)


def test_cann_is_given_all_dx_then_all_dy_then_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    def npu_deformable_conv2d(
        x: Tensor,
        weight: Tensor,
        places: Tensor,
        bias: Tensor,
        *,
        kernel_size: list[int],
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        deformable_groups: int,
        modulated: bool,
    ) -> tuple[Tensor, None]:
        assert (kernel_size, deformable_groups, modulated) == ([3, 3], places.shape[1] // 27, True)
        dx, dy, mask = places.chunk(3, dim=1)
        window = Window(stride[2], padding[0], dilation[2], groups)
        offsets = torch.stack([dy, dx], dim=2).flatten(1, 2)
        return deform_conv(x, offsets, weight, bias, mask, window), None

    monkeypatch.setattr(torch.ops, "npu", SimpleNamespace(npu_deformable_conv2d=npu_deformable_conv2d), raising=False)
    check_native(by_cann)
    assert native_deform.operator_for(torch.device("cpu")) is None
