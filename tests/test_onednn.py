"""Convolutions that oneDNN would compute wrongly are computed in another way, with the same result."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gfl.operators.trace import Op, OpTrace
from gfl.tensors.onednn import conv2d

FORWARD = torch.ops.aten.convolution.default


def convolutions(trace: OpTrace) -> list[Op]:
    return [op for op in trace.ops if op.func is FORWARD]


@pytest.mark.parametrize(("channels", "strides"), [(8, [1, 1]), (16, [2, 2])])
def test_a_narrow_1x1_convolution_is_trained_without_a_stride(channels: int, strides: list[int]) -> None:
    x = torch.randn(2, channels, 9, 12).to(memory_format=torch.channels_last)
    weight = torch.randn(5, channels, 1, 1, requires_grad=True)
    with OpTrace() as trace:
        y = conv2d(x, weight, None, 2, 0, 1, 1)
    assert [op.arguments[0][3] for op in convolutions(trace)] == [strides]  # type: ignore[index]  # nested containers
    torch.testing.assert_close(y.double(), F.conv2d(x.double(), weight.double(), stride=2), atol=1e-5, rtol=1e-5)
    with OpTrace() as trace, torch.no_grad():
        conv2d(x, weight, None, 2, 0, 1, 1)
    assert [op.arguments[0][3] for op in convolutions(trace)] == [[2, 2]]  # type: ignore[index]  # as above


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 1), (5, 1), (1, 2), (2, 2)])
def test_the_gradient_of_a_bfloat16_weight_over_a_column_of_pixels_has_no_stray_numbers(
    size_hw: tuple[int, int],
) -> None:
    x, weight = torch.randn(2, 16, *size_hw).bfloat16(), torch.randn(16, 16, 3, 3).bfloat16().requires_grad_()
    bias = torch.randn(16).bfloat16()
    with OpTrace() as trace:
        y = conv2d(x, weight, bias, 2, 1, 1, 1)
    dtype = torch.float32 if size_hw[1] == 1 else torch.bfloat16
    assert [op.dtypes for op in convolutions(trace)] == [(dtype,) * len(op.dtypes) for op in convolutions(trace)]
    assert y.dtype == torch.bfloat16
    wide = weight.detach().double().requires_grad_()
    expected = F.conv2d(x.double(), wide, bias.double(), 2, 1)
    torch.testing.assert_close(y.double(), expected, atol=0.2, rtol=0.02)
    for result, parameter in ((y, weight), (expected, wide)):
        result.sum().backward()
        assert parameter.grad is not None
    torch.testing.assert_close(weight.grad.double(), wide.grad, atol=0.05, rtol=0.02)  # type: ignore[union-attr]
