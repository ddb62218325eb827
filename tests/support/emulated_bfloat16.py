"""Training whose bfloat16 products are computed in float32 and rounded once, as bfloat16 instructions do it.

A CPU without such instructions takes ten times as long in torch's own way. With this it learns in a little more than
float32's time what one with AMX or AVX512_BF16 learns, but for the order of the sums:
`python tests/support/emulated_bfloat16.py --gin_file scratch_small.gin --gin_bindings "PRECISION = 'bf16'" ...`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gfl.train import main

Pair = tuple[int, int]


class RoundedConvolution(torch.autograd.Function):
    """A convolution of bfloat16 tensors, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = None if bias is None else [len(bias)], stride, padding
        wide = None if bias is None else bias.float()
        return torch.conv2d(x.float(), weight.float(), wide, stride, padding).bfloat16()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        bias, stride, padding = ctx.sizes
        gradients = torch.ops.aten.convolution_backward(
            *(upstream[0].float(), x.float(), weight.float(), bias, stride, padding),
            *([1, 1], False, [0, 0], 1, list(ctx.needs_input_grad[:3])),
        )
        return (*(None if each is None else each.bfloat16() for each in gradients), None, None)


def rounded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """As `torch.conv2d`; of bfloat16, rounded once."""
    if x.dtype != torch.bfloat16:
        return torch.conv2d(x, weight, bias, stride, padding)
    result: Tensor = RoundedConvolution.apply(x, weight, bias, (stride, stride), (padding, padding))
    return result


def rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear`; of bfloat16, rounded once."""
    if x.dtype != torch.bfloat16:
        return torch._C._nn.linear(x, weight, bias)
    wide = None if bias is None else bias.float()
    return torch._C._nn.linear(x.float(), weight.float(), wide).bfloat16()


if __name__ == "__main__":
    F.conv2d, F.linear = rounded_conv2d, rounded_linear
    sys.exit(main())
