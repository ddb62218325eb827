"""The arrays of a batch as parts of one piece of memory, so that a worker can fill what another process reads.

Letters: B pictures, G box slots, I slots of ignored boxes. NumPy only.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.shapes import Canvas

ALIGNMENT = 64  # bytes of a cache line


class BatchShape(NamedTuple):
    """What decides the bytes of a batch."""

    pictures: int
    canvas: Canvas
    boxes: int  # box slots a picture
    ignored: int  # slots of ignored boxes a picture


class BatchArrays(NamedTuple):
    """The parts of `gfl.model.structures.Batch` in their order, and then what the host alone uses."""

    images: NDArray[np.uint8]  # (B,3,H,W)
    image_sizes: NDArray[np.int32]  # (B,2)
    boxes_xyxy: NDArray[np.float32]  # (B,G,4)
    labels: NDArray[np.int32]  # (B,G)
    box_mask: NDArray[np.bool_]  # (B,G)
    ignored_xyxy: NDArray[np.float32]  # (B,I,4)
    ignored_mask: NDArray[np.bool_]  # (B,I)
    image_weights: NDArray[np.float32]  # (B,)
    scales: NDArray[np.float32]  # (B,2)


def batch_bytes(shape: BatchShape) -> int:
    """Bytes of the memory that holds a batch, each array at an aligned place."""
    return max(part.start + _aligned(part.size) for part in _parts(shape))


def arrays_in(memory: NDArray[np.uint8], shape: BatchShape) -> BatchArrays:
    """The arrays of a batch in at least `batch_bytes` of memory; they hold what the memory does."""
    return BatchArrays(
        *(memory[start : start + size].view(dtype).reshape(dims) for start, size, dtype, dims in _parts(shape))
    )


def new_arrays(shape: BatchShape) -> BatchArrays:
    """The arrays of a batch in memory of their own."""
    return arrays_in(np.empty(batch_bytes(shape), np.uint8), shape)


class _Part(NamedTuple):
    """Where an array lies in the memory of a batch, and how it is to be read."""

    start: int
    size: int
    dtype: np.dtype[np.generic]
    dims: tuple[int, ...]


@lru_cache(maxsize=256)  # of every canvas, once
def _parts(shape: BatchShape) -> tuple[_Part, ...]:
    count, (height, width), boxes, ignored = shape
    uint8, int32, float32, boolean = map(np.dtype, (np.uint8, np.int32, np.float32, np.bool_))
    forms = (
        (uint8, (count, 3, height, width)),
        (int32, (count, 2)),
        (float32, (count, boxes, 4)),
        (int32, (count, boxes)),
        (boolean, (count, boxes)),
        (float32, (count, ignored, 4)),
        (boolean, (count, ignored)),
        (float32, (count,)),
        (float32, (count, 2)),
    )
    parts, start = [], 0
    for dtype, dims in forms:
        parts.append(_Part(start, dtype.itemsize * math.prod(dims), dtype, dims))
        start += _aligned(parts[-1].size)
    return tuple(parts)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
