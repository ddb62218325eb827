"""What is said where a run of a model needs more memory than there is."""

from __future__ import annotations

from contextlib import AbstractContextManager

from gfl.memory import memory_told
from gfl.shapes import Canvas
from gfl.words import counted


def run_memory_errors(canvas: Canvas, pictures: int) -> AbstractContextManager[None]:
    """Around a run of a model: raise InputError where memory does not suffice, whatever the runtime says then."""
    height, width = canvas
    return memory_told(
        f"the memory does not suffice to run the model on {counted(pictures, 'picture')} of {height}x{width} at a time",
        "lower the batch, export the model with a smaller batch or canvas, or end what else uses the memory",
    )
