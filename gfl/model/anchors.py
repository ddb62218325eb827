"""The anchors of a canvas: one square for each cell of each level, side 8 strides, centre (x * stride, y * stride)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gfl.shapes import CANVAS_MULTIPLE

STRIDES = (8, 16, 32, 64, 128)  # P3..P7
SCALE = 8  # side of an anchor, in strides


class Grid(NamedTuple):
    """The A anchors of a canvas, level by level and row-major (y, x), and the L levels; the same for every picture."""

    canvas_hw: tuple[int, int]
    shapes_hw: tuple[tuple[int, int], ...]  # cells of each level
    starts: tuple[int, ...]  # index of each level's first anchor
    centres_px: Tensor  # float32 (A,2) x, y
    strides: Tensor  # float32 (A,)
    level_shapes: Tensor  # float32 (L,2) rows, columns
    level_strides: Tensor  # float32 (L,)
    level_starts: Tensor  # float32 (L,)

    @property
    def num_anchors(self) -> int:
        return sum(height * width for height, width in self.shapes_hw)


def make_grid(canvas_hw: tuple[int, int], device: torch.device | str = "cpu") -> Grid:
    """The grid of a canvas (height, width) in px. Raises ValueError unless both are multiples of 32."""
    if canvas_hw[0] % CANVAS_MULTIPLE or canvas_hw[1] % CANVAS_MULTIPLE or min(canvas_hw) < CANVAS_MULTIPLE:
        raise ValueError(f"canvas {canvas_hw[0]}x{canvas_hw[1]}: expected positive multiples of {CANVAS_MULTIPLE}")
    shapes = tuple((-(-canvas_hw[0] // stride), -(-canvas_hw[1] // stride)) for stride in STRIDES)
    starts, centres, strides, count = [], [], [], 0
    for (rows, columns), stride in zip(shapes, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append(torch.stack([x, y], dim=-1).reshape(-1, 2) * stride)
        strides.append(torch.full((rows * columns,), stride))
        starts.append(count)
        count += rows * columns
    return Grid(
        canvas_hw,
        shapes,
        tuple(starts),
        torch.cat(centres).float().to(device),
        torch.cat(strides).float().to(device),
        torch.tensor(shapes, dtype=torch.float32, device=device),
        torch.tensor(STRIDES, dtype=torch.float32, device=device),
        torch.tensor(starts, dtype=torch.float32, device=device),
    )


def padded_sizes(image_sizes: Tensor) -> Tensor:
    """The own padded shape of each image: its size rounded up to multiples of 32. int32 (B,2) -> float32 (B,2), px.

    In float32, which is exact here, because exported files and NPUs divide integers by way of it.
    """
    return torch.floor((image_sizes.float() + (CANVAS_MULTIPLE - 1)) / CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def cells_inside(grid: Grid, padded_hw: Tensor) -> Tensor:
    """float32 (B,A): 1 for anchors whose centre lies in the image's padded shape, 0 for the others.

    These are the cells that the network would have on a canvas of that shape: ceil(height / stride) rows, and so on.
    padded_hw: (B,2), height and width in px, whole numbers, as the centres are.
    """
    sizes = padded_hw.float()
    x, y = grid.centres_px[:, 0], grid.centres_px[:, 1]
    return torch.minimum(sizes[:, 1:] - x, sizes[:, :1] - y).clamp(0.0, 1.0)
