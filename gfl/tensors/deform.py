"""Deformable convolution (arXiv 1703.06211; with masks, 1811.11168), out of operators that every device has.

An ordinary convolution reads a fixed 3x3 window; a deformable one shifts each point of the window by an offset that
another convolution, `conv_offset`, computes from the same input, and reads between pixels by bilinear interpolation.

The four pixels around every point are rows of a table of pixels, and `embedding_bag` adds them up, weighted, in one
pass. The sampled points lie in memory as a picture of their own, three times as high and wide as the output, over
which the rest is an ordinary convolution whose stride is its kernel.

Shapes: B image, H and W input, P and Q output, C input channels in D groups with offsets of their own,
O output channels, k kernel side.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.tensors.layers import conv
from gfl.tensors.native_deform import Window, operator_for
from gfl.tensors.variables import Variables, child, leaf

Version: TypeAlias = Literal["v1", "v2"]
# Of a 3x3 convolution: two offsets for each of nine points, in v2 a mask too.
OFFSET_CHANNELS: dict[Version, int] = {"v1": 18, "v2": 27}


def init_offsets(in_channels: int, version: Version) -> Variables:
    """The `conv_offset` of a 3x3 convolution, filled with zeros: the layer starts as an ordinary one, in v2 at half."""
    channels = OFFSET_CHANNELS[version]
    return {"weight": torch.zeros(channels, in_channels, 3, 3), "bias": torch.zeros(channels)}


def conv_or_deformable(
    variables: Variables, x: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """The convolution whose variables these are: deformable where it has a `conv_offset`."""
    layer = deformable if "conv_offset" in variables else conv
    return layer(variables, x, stride=stride, padding=padding, groups=groups)


def deformable(
    variables: Variables,
    x: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """A deformable layer: (B,C,H,W) -> (B,O,P,Q). Its `conv_offset` tells the version: of a 3x3, 18 channels or 27.

    The first 2*k*k channels (times deform_groups) are the offsets. Another k*k, in version 2, are the masks, before
    their sigmoid.
    """
    weight = leaf(variables, "weight")
    points = deform_groups * weight.shape[2] * weight.shape[3]
    # From here on float32 under every policy: float16 knows no fractions of places beyond the 1024th pixel.
    offsets = conv(child(variables, "conv_offset"), x, stride=stride, padding=padding, dilation=dilation).float()
    mask = None
    if offsets.shape[1] == 3 * points:
        offsets, mask = offsets[:, : 2 * points], offsets[:, 2 * points :].sigmoid()
    bias = leaf(variables, "bias") if "bias" in variables else None
    window = Window(stride, padding, dilation, groups)
    return deform_conv(x, offsets, weight, bias, mask, window)


def deform_conv(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, window: Window
) -> Tensor:
    """Deformable convolution, differentiable in everything: (B,C,H,W) -> (B,O,P,Q), in the dtype of the weight.

    Args:
      x: float (B,C,H,W).
      offsets: float (B,2*D*k*k,P,Q), px: for each group and each point of the kernel, row-major, dy and dx.
      weight: float (O,C/groups,k,k); bias: (O,) or None.
      mask: float (B,D*k*k,P,Q), a factor of each point; None: version 1, which has none.
      window: how the kernel moves.

    A point counts where -1 < y < H and -1 < x < W; pixels outside the picture are 0. The result is continuous in the
    offset; where a point lies exactly on a pixel, the slope is that towards the larger coordinate.

    Reference:
      Dai et al., Deformable Convolutional Networks, arXiv 1703.06211, section 2.1; Zhu et al., 1811.11168, section 3.2.
    """
    native = operator_for(x.device)
    if native is not None:
        return native(x, offsets, weight, bias, mask, window)
    kernel = weight.shape[2]
    sampled = sample_windows(x, offsets, mask, kernel, window)
    return F.conv2d(sampled.to(weight.dtype), weight, bias, kernel, 0, 1, window.groups)


def sample_windows(x: Tensor, offsets: Tensor, mask: Tensor | None, kernel: int, window: Window) -> Tensor:
    """The points that each output pixel reads, as blocks of k by k: (B,C,H,W) -> (B,C,k*P,k*Q), at least float32."""
    B, C, H, W = x.shape
    P, Q = offsets.shape[2:]
    D = offsets.shape[1] // (2 * kernel * kernel)
    blocks = offsets.view(B, D, kernel, kernel, 2, P, Q)
    top, left = _places(P, kernel, window, x.device), _places(Q, kernel, window, x.device)
    # (B,D,P,k,Q,k): the order in which the blocks lie in the sampled picture
    y = blocks[:, :, :, :, 0].permute(0, 1, 4, 2, 5, 3) + top.view(P, kernel, 1, 1)
    x_px = blocks[:, :, :, :, 1].permute(0, 1, 4, 2, 5, 3) + left.view(1, 1, Q, kernel)
    row, column = y.floor(), x_px.floor()
    below, right = y - row, x_px - column
    counts = (y > -1) & (y < H) & (x_px > -1) & (x_px < W)
    # Multiplied, not chosen by `where`: an offset that is not a number shall spoil the loss, which ends the run.
    strength = counts.to(y.dtype)
    if mask is not None:
        strength = strength * mask.view(B, D, kernel, kernel, P, Q).permute(0, 1, 4, 2, 5, 3)
    above, left_of = (1 - below) * strength, 1 - right
    below = below * strength
    shares = torch.stack([above * left_of, above * right, below * left_of, below * right], dim=-1)
    # Rows of the table: the pixels of all pictures, each with a border of zeros, which holds the pixels outside.
    first = torch.where(counts, (row + 1) * (W + 2) + (column + 1), 0.0).to(torch.int32)
    images = torch.arange(B * D, dtype=torch.int32, device=x.device).view(B, D, 1, 1, 1, 1)
    first = first + images * ((H + 2) * (W + 2))
    rows = torch.stack([first, first + 1, first + (W + 2), first + (W + 3)], dim=-1)
    padded = F.pad(x.to(shares.dtype), (1, 1, 1, 1)).view(B, D, C // D, H + 2, W + 2)
    table = padded.permute(0, 1, 3, 4, 2).reshape(-1, C // D)
    sampled = F.embedding_bag(rows.view(-1, 4), table, mode="sum", per_sample_weights=shares.view(-1, 4))
    sampled = sampled.view(B, D, kernel * P, kernel * Q, C // D)
    return sampled.permute(0, 1, 4, 2, 3).reshape(B, C, kernel * P, kernel * Q)


def _places(outputs: int, kernel: int, window: Window, device: torch.device) -> Tensor:
    """Where an ordinary kernel's rows (or columns) lie: float32 (outputs,k), px."""
    start = torch.arange(outputs, dtype=torch.float32, device=device) * window.stride - window.padding
    return start.unsqueeze(1) + torch.arange(kernel, dtype=torch.float32, device=device) * window.dilation
