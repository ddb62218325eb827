"""From a picture file to a resized picture and its boxes, exactly as the reference's pipeline.

numpy and OpenCV only: training, evaluation and `infer/` share this file. Pictures are uint8 (H,W,3) RGB, boxes float32
(G,4) xyxy px, sizes (height, width). Source: reference.md, Recipe.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Ints = NDArray[np.int64]

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")  # how the names of files end
JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_SCAN = 0xDA
JPEG_END = 0xD9
# In a scan's data 0xff is followed by 0x00 (a literal 0xff), a restart marker or fill: anything else ends the scan.
JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def is_picture(path: Path) -> bool:
    """By its name; hidden files (macOS leaves ._photo.jpg) are none."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def read_picture(path: Path) -> Image:
    """Read a picture file as uint8 (H,W,3) RGB, turned upright by its EXIF orientation.

    This is cv2.IMREAD_COLOR, mmcv's default ('color'): grey and transparent pictures become three channels.
    Raises InputError naming the file where it is missing, truncated or not a picture.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"got no picture from {path} ({error.strerror}), expected a readable file; check the folder"
        ) from None
    return decode_picture(data, str(path))


def decode_picture(data: bytes, name: str) -> Image:
    """Decode a file's bytes as `read_picture` does; `name` is what an InputError calls it."""
    if is_truncated(data):
        # OpenCV would fill the missing part with grey and say nothing.
        raise InputError(f"got a truncated file {name} ({len(data)} bytes), expected a whole picture; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        image = None
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
    place = len(JPEG_START)
    while place + 2 <= len(data):
        if data[place] != 0xFF:
            place += 1  # decoders skip stray bytes between segments
            continue
        marker = data[place + 1]
        if marker == JPEG_END:
            return True
        if marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2  # fill byte, or a marker without a segment
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == JPEG_SCAN:
            found = JPEG_SCAN_END.search(data, place)
            if found is None:
                return False
            place = found.start()
    return False


def png_is_complete(data: bytes) -> bool:
    """Walk a PNG's chunks (length, name, content, checksum) to IEND."""
    place = len(PNG_START)
    while place + 8 <= len(data):
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def resized_sizes(sizes_hw: Ints, short_sides: Ints | int, long_side: int) -> Ints:
    """(N,2) sizes -> (N,2) sizes of the resized pictures; short_sides (N,) or one for all.

    The reference's rule: the largest keep-ratio size with no side above long_side and the shorter one not above
    short_side; each new side is int(side * scale + 0.5).
    """
    sides = sizes_hw.astype(np.float64)
    scale = np.minimum(long_side / sides.max(axis=1), np.asarray(short_sides) / sides.min(axis=1))
    new_sides: Ints = (sides * scale[:, None] + 0.5).astype(np.int64)
    return new_sides.clip(min=1)


def resized_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """`resized_sizes` for one picture: (height, width) px."""
    size = resized_sizes(np.array([[height, width]], dtype=np.int64), short_side, long_side)[0]
    return int(size[0]), int(size[1])


def resize(image: Image, size_hw: tuple[int, int]) -> Image:
    """Resize to (height, width) with OpenCV's bilinear interpolation, as the reference."""
    if image.shape[:2] == size_hw:
        return image
    return np.asarray(cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def scale_factors(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> NDArray[np.float32]:
    """(2,) float32: new over old height, new over old width (they differ by rounding)."""
    return np.array([to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]], dtype=np.float32)


def scale_boxes(boxes_xyxy: Boxes, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Boxes:
    """Boxes (G,4) of a picture of size from_hw, on the picture resized to to_hw, clipped to it."""
    scale_h, scale_w = scale_factors(from_hw, to_hw)
    scaled = boxes_xyxy * np.array([scale_w, scale_h, scale_w, scale_h], dtype=np.float32)
    limit = np.array([to_hw[1], to_hw[0], to_hw[1], to_hw[0]], dtype=np.float32)
    return np.clip(scaled, np.float32(0), limit).astype(np.float32, copy=False)


def flip_horizontal(image: Image) -> Image:
    """Mirror left and right."""
    return np.asarray(cv2.flip(image, 1), dtype=np.uint8)  # 6 times as fast as numpy's


def flip_vertical(image: Image) -> Image:
    """Mirror top and bottom."""
    return np.asarray(cv2.flip(image, 0), dtype=np.uint8)


def flip_boxes_horizontal(boxes_xyxy: Boxes, width: int) -> Boxes:
    """Boxes (G,4) of the mirrored picture: x' = width - x."""
    mirrored = boxes_xyxy.copy()
    mirrored[:, [0, 2]] = np.float32(width) - boxes_xyxy[:, [2, 0]]
    return mirrored


def flip_boxes_vertical(boxes_xyxy: Boxes, height: int) -> Boxes:
    """Boxes (G,4) of the picture upside down: y' = height - y."""
    mirrored = boxes_xyxy.copy()
    mirrored[:, [1, 3]] = np.float32(height) - boxes_xyxy[:, [3, 1]]
    return mirrored


def jitter(image: Image, brightness: float, contrast: float) -> Image:
    """Multiply by the brightness factor, then spread about the new mean by the contrast factor; 1 changes nothing."""
    if brightness == 1.0 and contrast == 1.0:
        return image
    mean = brightness * float(image.mean())
    table = (np.arange(256) * brightness - mean) * contrast + mean
    return np.asarray(cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)), dtype=np.uint8)
