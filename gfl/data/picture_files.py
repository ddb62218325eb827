"""Picture files: which names are pictures, and their decoding to RGB. NumPy and OpenCV only."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.depth import to_uint8
from gfl.data.picture_headers import JPEG_START, PNG_START, stated_pixels
from gfl.data.shards.member import Member
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.shapes import MOST_PIXELS, PIXELS_VARIABLE

PictureFile: TypeAlias = Path | Member  # a file of its own, or one in a shard

# How the names of most picture files end: those are not asked what they hold.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_BYTES = 2**31 - 1  # of a file: OpenCV takes no more
# OpenCV's flag for RGB; versions before 4.11 have BGR alone. JPEGs alone get it: their decoder writes either order at
# no cost, while those of other formats have had faults with it.
RGB_AT_ONCE: int = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
JPEG_SCAN, JPEG_END = 0xDA, 0xD9  # the markers before a scan's data and at the end of the file
# In a scan's data 0xff is followed by 0x00 (a literal 0xff), a restart marker or fill: anything else ends the scan.
JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name, or else by its first bytes, which OpenCV's decoders are asked for.

    Hidden files (macOS leaves ._photo.jpg) are none, and neither is what is no regular file.
    """
    if path.name.startswith(".") or not path.is_file():
        return False
    return path.suffix.lower() in PICTURES or is_decodable(path)


def is_decodable(path: Path) -> bool:
    """Whether a file begins as one of the formats that this build of OpenCV decodes; False where it cannot be read."""
    try:
        with opencv_path(path) as name:
            return bool(cv2.haveImageReader(name))
    except InputError:
        return False


@contextmanager
def opencv_path(path: Path) -> Iterator[str]:
    """The name under which OpenCV opens a regular file; InputError where it cannot be opened.

    A name that is no UTF-8 ends OpenCV's process, not only its call, so that such a file is opened here, and OpenCV
    gets its number.
    """
    try:
        stream = open_file(path)
    except (OSError, ValueError) as error:
        raise InputError(unreadable(path, error)) from None
    with stream:
        if is_utf8(str(path)):
            yield str(path)
        elif os.path.exists(f"/dev/fd/{stream.fileno()}"):
            yield f"/dev/fd/{stream.fileno()}"
        else:
            raise InputError(f"{path} has a name that is no UTF-8, expected one that is; rename it")


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded: names of files may hold bytes that are no text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_file(path: PictureFile) -> BinaryIO:
    """A regular file, opened for reading. Raises OSError, or ValueError for a name with a zero byte.

    Anything else is refused before it is opened, and again afterwards, when it cannot be exchanged any more: a pipe
    would wait for someone to write, and opening some devices does things. Of a shard's picture all bytes are read, or
    InputError says why not.
    """
    if isinstance(path, Member):
        return BytesIO(path.read())
    check_regular(os.stat(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        check_regular(os.fstat(descriptor))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(status: os.stat_result) -> None:
    """Raise OSError for anything but a regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket")


def read_picture(path: PictureFile, depth: str = "auto", most_pixels: int | None = None) -> Image:
    """Read a picture file as uint8 (H,W,3) RGB, turned upright by its EXIF orientation.

    For pictures of 8 bits this is cv2.IMREAD_COLOR, mmcv's default ('color'): grey and transparent pictures become
    three channels. Deeper ones are scaled by the rule `depth` (`gfl.data.depth`). Of an animation, or of several pages,
    it is the first picture.
    Raises InputError naming the file where it is missing, truncated, not a picture or one of more than `most_pixels`
    (default: `pixel_limit`).
    """
    return decode_picture(read_bytes(path), str(path), depth, most_pixels)


def pixel_limit() -> int:
    """The most pixels of a picture that are decoded: GFL_MOST_PIXELS of the environment, else MOST_PIXELS."""
    text = os.environ.get(PIXELS_VARIABLE, "")
    if not text:
        return MOST_PIXELS
    if not re.fullmatch("[0-9]{1,15}", text) or int(text) == 0:
        raise InputError(f"got {PIXELS_VARIABLE}={text}, expected a number of pixels; unset it for {MOST_PIXELS}")
    return int(text)


def read_bytes(path: PictureFile) -> bytes:
    """The content of a picture file, not decoded; InputError where it cannot be read."""
    try:
        with open_file(path) as stream:
            size = file_size(stream)
            if size <= MOST_BYTES:
                return stream.read()
    except (OSError, ValueError) as error:
        raise InputError(unreadable(path, error)) from None
    raise InputError(
        f"got a file of {size} bytes, {path}, expected a picture of at most {MOST_BYTES}, which is "
        "what OpenCV takes; write it in a format that compresses"
    )


def file_size(stream: BinaryIO) -> int:
    """Bytes of an opened file, of which nothing was read."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def stored_bytes(path: PictureFile) -> int:
    """Bytes of a picture's file; 0 where it is missing or no file, or where a shard does not say."""
    if isinstance(path, Member):
        return path.size()
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def unreadable(path: PictureFile | str, error: Exception) -> str:
    """The sentence for a file that cannot be read."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"got no picture from {path} ({reason}), expected a readable file; check the folder"


def decode_picture(data: bytes, name: str, depth: str = "auto", most_pixels: int | None = None) -> Image:
    """Decode a file's bytes as `read_picture` does; `name` is what an InputError calls it."""
    if is_truncated(data):
        # OpenCV would fill the missing part with grey and say nothing.
        raise InputError(f"got a truncated file {name} ({len(data)} bytes), expected a whole picture; copy it again")
    limit, pixels = pixel_limit() if most_pixels is None else most_pixels, stated_pixels(data)
    if pixels is not None:
        check_pixels(pixels, limit, name)
    is_rgb = RGB_AT_ONCE != cv2.IMREAD_COLOR and data.startswith(JPEG_START)
    decoded = None if pixels == 0 else decode(data, colours=RGB_AT_ONCE if is_rgb else cv2.IMREAD_COLOR)
    if decoded is None:
        raise InputError(
            f"got a file that cannot be decoded, {name} ({len(data)} bytes), expected a JPEG, PNG or "
            "other picture that OpenCV reads; copy it again or leave it out"
        )
    # The header of a format that is unknown here is not read: OpenCV's own limit held while it was decoded.
    check_pixels(decoded.shape[0] * decoded.shape[1], limit, name)
    levels = to_uint8(decoded, depth)
    if is_rgb and levels.ndim == 3:
        return levels
    colours = cv2.COLOR_GRAY2RGB if levels.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(levels, colours), dtype=np.uint8)


def decode(data: bytes, flags: int = 0, colours: int = cv2.IMREAD_COLOR) -> NDArray[np.generic] | None:
    """The pixels of a file, (H,W,3) BGR or (H,W), in the depth that it has; None where OpenCV cannot decode it.

    flags: further ones of OpenCV's; colours: RGB_AT_ONCE for RGB.
    """
    for wanted in (colours, cv2.IMREAD_GRAYSCALE):  # OpenCV makes no colours of one channel of floats
        with suppress(cv2.error):
            decoded = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), wanted | cv2.IMREAD_ANYDEPTH | flags)
            if decoded is not None:
                return np.asarray(decoded)
    return None


def check_pixels(pixels: int, limit: int, name: str) -> None:
    """Raise InputError where a picture has more pixels than are decoded."""
    if pixels > limit:
        raise InputError(
            f"got a picture of {pixels:,} pixels, {name}, expected at most {limit:,}; cut it into parts, or "
            f"set {PIXELS_VARIABLE} to more (for infer: --most_pixels, for infer.serve: --max_pixels)"
        )


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
