"""What is said where a device has too little memory for a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager

from gfl.memory import memory_told
from gfl.shapes import Canvas
from gfl.words import counted

MEND = (
    "raise ACCUMULATE, which computes a step of BATCH_SIZE in as many parts (--batch of gfl.evaluate), lower "
    "SHORT_SIDE or LONG_SIDE, or set RECOMPUTE = True"
)


def memory_errors(canvas: Canvas, pictures: int) -> AbstractContextManager[None]:
    """Around a batch of so many pictures on a device: raise InputError where its memory does not suffice."""
    height, width = canvas
    return memory_told(
        f"the device has too little memory for {counted(pictures, 'picture')} of {height}x{width} at a time", MEND
    )
