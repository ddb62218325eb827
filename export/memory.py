"""What is said where this machine has too little memory for an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gfl.engine.memory import tells_of_memory
from gfl.errors import InputError, first_line
from gfl.shapes import Canvas


@contextmanager
def memory_told(size: Canvas, batch: int) -> Iterator[None]:
    """Around the export of one size: raise InputError where the memory does not suffice."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's own types share no base class
        if not tells_of_memory(error):
            raise
        raise InputError(
            f"this machine has too little memory to export {batch} pictures of {size[0]}x{size[1]} at a time "
            f"({first_line(error)[:200]}); lower --batch or --size, or export on a larger machine"
        ) from error
