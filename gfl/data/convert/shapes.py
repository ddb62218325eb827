"""The bounding boxes of the shapes that annotation tools draw. Angles are in degrees, clockwise in the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gfl.data.convert.source import Corners


def bounding_box(points: Iterable[Sequence[float]]) -> Corners:
    """The box around points (x, y). Raises ValueError where there is none."""
    xs, ys = zip(*((x, y) for x, y in points), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def paired(numbers: Sequence[float]) -> list[tuple[float, float]]:
    """x1, y1, x2, y2 ... -> points. Raises ValueError for an odd count."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def turned_box(corners: Corners, degrees: float, about: Sequence[float] | None = None) -> Corners:
    """The box around a box turned about a point, by default its centre."""
    x1, y1, x2, y2 = corners
    around_x, around_y = about or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = [(x - around_x, y - around_y) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    return bounding_box((around_x + x * cos - y * sin, around_y + x * sin + y * cos) for x, y in moved)


def ellipse_box(centre: Sequence[float], radii: Sequence[float], degrees: float = 0.0) -> Corners:
    """The box around an ellipse turned about its centre; a circle has two equal radii."""
    (x, y), (rx, ry) = centre, radii
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return x - half_width, y - half_height, x + half_width, y + half_height
