"""What is said where a device has too little memory for a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gfl.errors import InputError, first_line
from gfl.shapes import Canvas
from gfl.words import counted

# In the messages of CUDA, of torch_npu ("NPU out of memory"), of their libraries, of torch's allocator on a CPU, and
# of ONNX Runtime.
_TEXTS = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")


def tells_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice; torch_npu has a class of its own beside CUDA's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in _TEXTS)


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
        if not tells_of_memory(error):
            raise
        height, width = canvas
        raise InputError(
            f"the device has too little memory for {counted(pictures, 'picture')} of {height}x{width} at a time "
            f"({first_line(error)[:200]}); {mend}"
        ) from error
