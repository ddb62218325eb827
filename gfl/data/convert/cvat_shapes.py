"""The shapes of CVAT's XML as boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from gfl.data.convert.files import numbers
from gfl.data.convert.shapes import bounding_box, ellipse_box, turned_box
from gfl.data.convert.source import Box, Corners, Notes, note

WITHOUT_AREA = ("polyline", "points", "tag", "skeleton")


def read_shape(element: Element, label: str | None, picture: str, notes: Notes) -> Box | None:
    """The box of a shape of the class `label`; None, and a note, for what has no area or cannot be read."""
    kind = element.tag
    name = f"{picture} ({label})"
    if kind in WITHOUT_AREA:
        note(notes, f"{kind if kind == 'points' else kind + 's'} without an area, left out", name)
        return None
    if kind not in SHAPES:
        note(notes, f"elements <{kind}> that are no shape, left out", picture)
        return None
    if not label:
        note(notes, "shapes without a label, left out", picture)
        return None
    try:
        corners = SHAPES[kind](element)
        (degrees,) = _read(element, ("rotation",)) if element.get("rotation") else (0.0,)
    except ValueError:
        note(notes, "shapes whose numbers cannot be read, left out", name)
        return None
    if kind != "box":
        note(notes, f"{kind}s that became their bounding boxes", name)
    elif degrees:
        note(notes, "turned boxes that became the boxes around them", name)
        corners = turned_box(corners, degrees)
    return Box(label, corners)


def _read(element: Element, keys: Sequence[str]) -> list[float]:
    return numbers(element.get(key) for key in keys)


def _box(element: Element) -> Corners:
    x1, y1, x2, y2 = _read(element, ("xtl", "ytl", "xbr", "ybr"))
    return x1, y1, x2, y2


def _polygon(element: Element) -> Corners:
    return bounding_box(numbers(pair.split(",")) for pair in element.get("points", "").split(";"))


def _ellipse(element: Element) -> Corners:
    x, y, rx, ry = _read(element, ("cx", "cy", "rx", "ry"))
    (degrees,) = _read(element, ("rotation",)) if element.get("rotation") else (0.0,)
    return ellipse_box((x, y), (rx, ry), degrees)


def _mask(element: Element) -> Corners:
    """A mask is a run-length code within a rectangle, which is its bounding box."""
    left, top, width, height = _read(element, ("left", "top", "width", "height"))
    return left, top, left + width, top + height


def _cuboid(element: Element) -> Corners:
    """A cuboid has eight corners, xtl1 and ytl1 to xbr2 and ybr2."""
    corners = [f"{side}{face}" for face in "12" for side in ("tl", "bl", "tr", "br")]
    return bounding_box(_read(element, (f"x{corner}", f"y{corner}")) for corner in corners)


SHAPES: dict[str, Callable[[Element], Corners]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
    "cuboid": _cuboid,
}
