"""What is said where a machine or a device has too little memory. No PyTorch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gfl.errors import InputError, first_line

# In the messages of ONNX Runtime, OpenVINO, CUDA, CANN, torch's allocators and OpenCV, in small letters.
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


def is_memory_error(error: Exception) -> bool:
    """Whether an exception of any library means that memory does not suffice."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(text in said for text in TEXTS)


@contextmanager
def memory_told(what: str, mend: str) -> Iterator[None]:
    """Around work: raise InputError where memory does not suffice for it, whatever the library says then.

    what: the beginning of the sentence, on what was too much; mend: its end, on what to do.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own types share no base class
        if not is_memory_error(error):
            raise
        raise InputError(f"{what} ({first_line(error)[:200]}); {mend}") from error
