"""Picture files: which names are pictures, and their decoding to RGB. NumPy and OpenCV only."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from gfl.data.transforms import Image
from gfl.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")  # how the names of files end
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
JPEG_SCAN, JPEG_END = 0xDA, 0xD9  # the markers before a scan's data and at the end of the file
# In a scan's data 0xff is followed by 0x00 (a literal 0xff), a restart marker or fill: anything else ends the scan.
JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name; hidden files (macOS leaves ._photo.jpg) are not."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def read_picture(path: Path) -> Image:
    """Read a picture file as uint8 (H,W,3) RGB, turned upright by its EXIF orientation.

    This is cv2.IMREAD_COLOR, mmcv's default ('color'): grey and transparent pictures become three channels.
    Raises InputError naming the file where it is missing, truncated or not a picture.
    """
    return decode_picture(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a picture file, not decoded; InputError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"got no picture from {path} ({error.strerror}), expected a readable file; check the folder"
        ) from None


def decode_picture(data: bytes, name: str) -> Image:
    """Decode a file's bytes as `read_picture` does; `name` is what an InputError calls it."""
    if is_truncated(data):
        # OpenCV would fill the missing part with grey and say nothing.
        raise InputError(f"got a truncated file {name} ({len(data)} bytes), expected a whole picture; copy it again")
    image = None
    with suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(
            f"got a file that cannot be decoded, {name} ({len(data)} bytes), expected a JPEG, PNG or other picture "
            "that OpenCV reads; copy it again or leave it out"
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG, PNG or WebP file ends before its own end marker; False for other formats."""
    if data.startswith(JPEG_START):
        return not jpeg_is_complete(data)
    if data.startswith(PNG_START):
        return not png_is_complete(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def jpeg_is_complete(data: bytes) -> bool:
    """Walk a JPEG's segments to its end marker: thumbnails inside segments and bytes after the end do not mislead."""
    at = len(JPEG_START)
    while at + 2 <= len(data):
        before, marker = data[at : at + 2]
        if before != 0xFF or marker == 0xFF:
            at += 1  # a stray byte between segments, which decoders skip, or a fill byte
        elif marker == JPEG_END:
            return True
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2  # a marker without a segment
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == JPEG_SCAN:
                end = JPEG_SCAN_END.search(data, at)
                at = end.start() if end else len(data)
    return False


def png_is_complete(data: bytes) -> bool:
    """Walk a PNG's chunks (length, name, content, checksum) to IEND."""
    at = len(PNG_START)
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False
