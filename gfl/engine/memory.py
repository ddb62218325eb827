"""What is said where a device has too little memory for a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gfl.errors import InputError, first_line
from gfl.shapes import Canvas
from gfl.words import counted

# In the messages of CUDA, of torch_npu ("NPU out of memory"), of their libraries, and of torch's allocator on a CPU.
_TEXTS = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")


TRAINING = (
    "raise ACCUMULATE, which computes a step of BATCH_SIZE in as many parts (--batch of gfl.evaluate), lower "
    "SHORT_SIDE or LONG_SIDE, or set RECOMPUTE = True"
)


@contextmanager
def memory_errors(canvas: Canvas, pictures: int, mend: str = TRAINING) -> Iterator[None]:
    """Around a batch on a device: raise InputError where its memory does not suffice.

    pictures: of the batch; mend: what the sentence says to do.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        # CUDA's class, of which torch_npu has its own.
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(text in said for text in _TEXTS):
            raise
        height, width = canvas
        raise InputError(
            f"the device has too little memory for {counted(pictures, 'picture')} of {height}x{width} at a time "
            f"({first_line(error)[:200]}); {mend}"
        ) from error
