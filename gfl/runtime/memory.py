"""What is said where a machine or a device has too little memory for a run of the model. No PyTorch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gfl.errors import InputError, first_line
from gfl.shapes import Canvas
from gfl.words import counted

# In the messages of ONNX Runtime, OpenVINO, CUDA, CANN and PyTorch, in small letters.
TEXTS = (
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "alloc_failed",
    "can't allocate memory",
    "not enough memory",
    "insufficient memory",
)


@contextmanager
def run_memory_errors(canvas: Canvas, pictures: int) -> Iterator[None]:
    """Around a run of a model: raise InputError where memory does not suffice, whatever the runtime says then."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own types share no base class
        said = str(error).lower()
        if not isinstance(error, MemoryError) and not any(text in said for text in TEXTS):
            raise
        height, width = canvas
        raise InputError(
            f"the memory does not suffice to run the model on {counted(pictures, 'picture')} of {height}x{width} at a "
            f"time ({first_line(error)[:200]}); lower the batch, export the model with a smaller batch or canvas, or "
            "end what else uses the memory"
        ) from error
