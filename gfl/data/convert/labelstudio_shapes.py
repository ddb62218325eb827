"""The regions of Label Studio as boxes in shares of the picture; its numbers are percents of width and height.

A turned rectangle has x and y at its own first corner, about which it is turned clockwise, in pixels: so its corners
are worked out in a picture of the height 1 and the width of its aspect ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gfl.data.convert.files import mapping, numbers, points, sequence
from gfl.data.convert.shapes import bounding_box, ellipse_box, turned_box
from gfl.data.convert.source import Box, Corners, Notes, note
from gfl.data.values import integer

LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "keypointlabels", "labels")


def read_region(region: dict[str, object], picture: str, aspect: Callable[[], float], notes: Notes) -> Iterator[Box]:
    """The boxes of a region, one for each of its labels; what has none is noted.

    aspect: width by height of the picture, asked only for what is turned.
    """
    value = mapping(region.get("value"))
    names = [str(name) for key in LABELS for name in sequence(value.get(key))]
    kind = _kind(value)
    if kind is None:
        what = str(region.get("type") or "regions")
        note(notes, f"results of the type {what} without an area, left out", picture)
        return
    if not names:
        note(notes, "regions without a label, left out", picture)
        return
    try:
        corners = _corners(kind, region, value, aspect)
    except (ValueError, TypeError):
        note(notes, "regions whose numbers cannot be read, left out", f"{picture} ({names[0]})")
        return
    if kind != "rectangle":
        note(notes, f"{kind}s that became their bounding boxes", f"{picture} ({names[0]})")
    elif value.get("rotation"):
        note(notes, "turned boxes that became the boxes around them", f"{picture} ({names[0]})")
    if len(names) > 1:
        note(notes, "regions with several labels, each of which has a box", f"{picture} ({', '.join(names)})")
    x1, y1, x2, y2 = corners
    yield from (Box(name, (x1, y1, x2, y2)) for name in names)


def _kind(value: dict[str, object]) -> str | None:
    """What is drawn, by the numbers that it has."""
    if "rle" in value:
        return "brush mask"
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    return "rectangle" if "width" in value and "height" in value and "x" in value else None


def _corners(kind: str, region: dict[str, object], value: dict[str, object], aspect: Callable[[], float]) -> Corners:
    if kind == "polygon":
        x1, y1, x2, y2 = bounding_box(points(value["points"]))
        return x1 / 100, y1 / 100, x2 / 100, y2 / 100
    if kind == "brush mask":
        return _mask_box(region, value)
    (degrees,) = numbers([value.get("rotation") or 0])
    wide = aspect() if degrees else 1.0
    if kind == "ellipse":
        x, y, rx, ry = numbers(value.get(key) for key in ("x", "y", "radiusX", "radiusY"))
        x1, y1, x2, y2 = ellipse_box((x * wide, y), (rx * wide, ry), degrees)
    else:
        x, y, width, height = numbers(value.get(key) for key in ("x", "y", "width", "height"))
        x1, y1, x2, y2 = x * wide, y, (x + width) * wide, y + height
        if degrees:
            x1, y1, x2, y2 = turned_box((x1, y1, x2, y2), degrees, about=(x1, y1))
    return x1 / wide / 100, y1 / 100, x2 / wide / 100, y2 / 100


def _mask_box(region: dict[str, object], value: dict[str, object]) -> Corners:
    """The bounding box of a brush's mask, which is a run-length code of an RGBA picture. Raises ValueError."""
    width, height = integer(region.get("original_width")), integer(region.get("original_height"))
    pixels = decode_runs([integer(byte) for byte in sequence(value["rle"])], width * height * 4)
    alpha = np.frombuffer(pixels, np.uint8).reshape(height, width, 4)[:, :, 3] > 0
    rows, columns = np.flatnonzero(alpha.any(axis=1)).tolist(), np.flatnonzero(alpha.any(axis=0)).tolist()
    if not rows:
        raise ValueError("an empty mask")
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def decode_runs(code: Sequence[int], expected: int) -> bytes:
    """Label Studio's run-length code (of the package rle-pack) as so many bytes. Raises ValueError for another.

    Bits: how many values there are (32), their size less 1 (5), four sizes of run lengths less 1 (4 each); then runs:
    whether it repeats one value (1), which of the four sizes its length less 1 has (2), the length, and the values.
    """
    bits, at = "".join(f"{byte:08b}" for byte in code), 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > len(bits):
            raise ValueError("the code ends early")
        return int(bits[at - size : at], 2)

    count, value_size = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if value_size != 8 or count != expected:
        raise ValueError(f"{count} values of {value_size} bits, expected {expected} bytes")
    values = bytearray()
    while len(values) < count:
        repeats = read(1)
        length = read(sizes[read(2)]) + 1
        values += bytes([read(8)]) * length if repeats else bytes(read(8) for _ in range(length))
    return bytes(values[:count])
