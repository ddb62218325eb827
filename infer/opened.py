"""What a picture of the input is, before it is read and after. Pictures are uint8 (H,W,3) RGB."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from gfl.data.depth import check_depth
from gfl.data.picture_files import decode_picture
from gfl.data.picture_headers import holds_several, stated_pixels
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


def check_reading(depth: str, most_pixels: int | None) -> None:
    """Raise InputError for rules of reading that are none; as of `open_content`."""
    if most_pixels is not None and most_pixels < 1:
        raise InputError(f"got --most_pixels {most_pixels}, expected at least 1; omit it for the default")
    check_depth(depth)


def open_content(data: bytes, name: str, depth: str = "auto", most_pixels: int | None = None) -> Opened:
    """The content of a picture file, as of `decode_picture`; `name` is what an InputError calls it."""
    # Where no header says it, decoding takes about what the file has; where the file has more than three bytes a
    # pixel, its channels have more than one.
    pixels = max(stated_pixels(data) or len(data), len(data) // 3)
    return Opened(pixels, partial(decode_picture, data, name, depth, most_pixels), holds_several(data))
