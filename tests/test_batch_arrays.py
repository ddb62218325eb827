"""The arrays of a batch share one piece of memory and do not overlap."""

from __future__ import annotations

import numpy as np

from gfl.data.batch_arrays import ALIGNMENT, BatchArrays, BatchShape, arrays_in, batch_bytes, new_arrays
from gfl.model.structures import Batch

SHAPE = BatchShape(3, (32, 96), 8, 4)


def test_arrays_are_aligned_and_none_overlaps_another() -> None:
    memory = np.zeros(batch_bytes(SHAPE), np.uint8)
    arrays = arrays_in(memory, SHAPE)
    for number, array in enumerate(arrays):
        assert (array.ctypes.data - memory.ctypes.data) % ALIGNMENT == 0
        array.view(np.uint8)[...] = number + 1
    for number, array in enumerate(arrays):
        assert (array.view(np.uint8) == number + 1).all()
    assert 0 <= memory.size - sum(array.nbytes for array in arrays) < len(arrays) * ALIGNMENT


def test_a_smaller_batch_fits_the_memory_of_the_largest() -> None:
    memory = np.zeros(batch_bytes(SHAPE), np.uint8)
    assert arrays_in(memory, BatchShape(2, (64, 32), 8, 4)).images.shape == (2, 3, 64, 32)


def test_a_batch_without_boxes_has_arrays_of_their_own_size() -> None:
    arrays = new_arrays(BatchShape(1, (32, 32), 1, 1))
    assert arrays.images.flags.writeable
    assert arrays.boxes_xyxy.shape == (1, 1, 4)


def test_the_arrays_are_the_parts_of_a_batch_in_their_order() -> None:
    assert BatchArrays._fields == (*Batch._fields, "scales")
