"""`torch.nn.functional.conv2d` without two errors of the library that computes it on CPUs, oneDNN, seen in torch 2.13.

On CPUs with AVX512 they end a training or spoil its weights; only models and pictures of toy sizes meet them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # channels that a kernel takes at once


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int, groups: int
) -> Tensor:
    """As torch's, of a square stride, padding and dilation: (B,I,H,W) -> (B,O,H',W')."""
    if stride == 1 or x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if weight.shape[2:] == (1, 1) and weight.shape[1] < BLOCK:
        # The backward pass of so narrow a 1x1 convolution with a stride writes past its memory where channels come last
        # (uxlfoundation/oneDNN issue 6035); without a stride it does not.
        x, stride = x[:, :, ::stride, ::stride], 1
    if x.shape[3] == 1 and weight.dtype == torch.bfloat16:
        # With a stride, the gradient of a 3x3 weight over a column of pixels has numbers that nobody wrote; in float32
        # it has not.
        y = F.conv2d(
            x.float(), weight.float(), None if bias is None else bias.float(), stride, padding, dilation, groups
        )
        return y.to(weight.dtype)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
