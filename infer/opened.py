"""What a picture of the input is, before it is read and after. Pictures are uint8 (H,W,3) RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gfl.data.transforms import Image
from gfl.errors import InputError


class Opened(NamedTuple):
    """A picture that is read, and not decoded yet."""

    pixels: int  # as its header says: decoding takes memory for so many
    decode: Callable[[], Image]  # uint8 (H,W,3) RGB; raises InputError where it cannot
    is_first: bool = False  # of several pictures in its file, whose others are not read


class Source(Protocol):
    """A picture of the input, not read yet."""

    @property
    def name(self) -> str:
        """What detections.json and messages call it."""

    def open(self) -> Opened:
        """Read it; InputError where it cannot be read."""


class Unreadable(NamedTuple):
    """What should be a picture, or hold some, and cannot be read."""

    name: str
    reason: str  # one sentence

    def open(self) -> Opened:
        """Raise InputError with the reason."""
        raise InputError(self.reason)
