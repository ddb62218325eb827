"""What is said where a machine or a device has too little memory for a run of the model. No PyTorch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gfl.errors import InputError, first_line
from gfl.runtime.memory import is_memory_error


@contextmanager
def memory_errors() -> Iterator[None]:
    """Around a run: raise InputError where memory does not suffice, whatever the library says then."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own types share no base class
        if not is_memory_error(error):
            raise
        raise InputError(
            f"the memory does not suffice to run the model ({first_line(error)[:200]}); lower "
            "--batch, take a model that was exported with a smaller batch or canvas, or end what else uses the memory"
        ) from error
