"""The regions of VGG Image Annotator, of versions 1 to 3, as boxes."""

from __future__ import annotations

import math
from typing import NamedTuple

from gfl.data.convert.files import mapping, numbers, sequence
from gfl.data.convert.shapes import bounding_box, ellipse_box, paired
from gfl.data.convert.source import Corners, Notes, note

WITHOUT_AREA = ("point", "line", "polyline")
# The kinds of version 3 by number, and what their numbers are called in version 2.
KINDS_OF_3: dict[object, tuple[str, tuple[str, ...]]] = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("extreme rectangle", ()),
    9: ("extreme circle", ()),
}


class Region(NamedTuple):
    """A region with its attributes."""

    shape: dict[str, object]  # as version 2 has it
    attributes: dict[str, object]


def region_box(region: Region, name: str, notes: Notes) -> Corners | None:
    """The box of a region; None, and a note, for what has no area or cannot be read."""
    kind = str(region.shape.get("name"))
    if kind in WITHOUT_AREA:
        note(notes, f"{kind}s without an area, left out", name)
        return None
    try:
        corners = _corners(kind, region.shape)
    except (ValueError, TypeError):
        note(notes, "regions whose numbers cannot be read, left out", name)
        return None
    if corners is None:
        note(notes, f"regions of the kind {kind}, left out", name)
    elif kind not in ("rect", "extreme rectangle"):
        note(notes, f"{kind}s that became their bounding boxes", name)
    return corners


def _corners(kind: str, shape: dict[str, object]) -> Corners | None:
    if kind == "rect":
        x, y, width, height = numbers(shape.get(key) for key in ("x", "y", "width", "height"))
        return x, y, x + width, y + height
    if kind == "circle":
        x, y, radius = numbers(shape.get(key) for key in ("cx", "cy", "r"))
        return ellipse_box((x, y), (radius, radius))
    if kind == "ellipse":
        x, y, rx, ry, theta = numbers(shape.get(key) or 0 for key in ("cx", "cy", "rx", "ry", "theta"))
        return ellipse_box((x, y), (rx, ry), math.degrees(theta))  # VIA turns by radians
    if kind in ("polygon", "extreme rectangle", "extreme circle"):
        xs, ys = (numbers(sequence(shape.get(key))) for key in ("all_points_x", "all_points_y"))
        if kind == "extreme circle":
            return _circle_through(xs, ys)
        return bounding_box(zip(xs, ys, strict=True))
    return None


def _circle_through(xs: list[float], ys: list[float]) -> Corners:
    """The box of the circle through three points."""
    (x1, x2, x3), (y1, y2, y3) = xs, ys
    twice_area = 2 * (x1 * (y2 - y3) + x2 * (y3 - y1) + x3 * (y1 - y2))
    if twice_area == 0:
        raise ValueError("the points lie on a line")
    squares = x1 * x1 + y1 * y1, x2 * x2 + y2 * y2, x3 * x3 + y3 * y3
    x = (squares[0] * (y2 - y3) + squares[1] * (y3 - y1) + squares[2] * (y1 - y2)) / twice_area
    y = (squares[0] * (x3 - x2) + squares[1] * (x1 - x3) + squares[2] * (x2 - x1)) / twice_area
    radius = math.dist((x, y), (x1, y1))
    return ellipse_box((x, y), (radius, radius))


def regions_of_3(content: dict[str, object]) -> tuple[dict[str, list[Region]], dict[str, list[str]]]:
    """The regions of a project of version 3 by the name of their picture, and the options of each attribute."""
    files = {key: str(mapping(value).get("fname", "")) for key, value in mapping(content.get("file")).items()}
    by_view = {}
    for key, view in mapping(content.get("view")).items():
        ids = [str(each) for each in sequence(mapping(view).get("fid_list"))]
        by_view[key] = files.get(ids[0], "") if ids else ""
    attributes = {key: mapping(value) for key, value in mapping(content.get("attribute")).items()}
    regions: dict[str, list[Region]] = {name: [] for name in by_view.values() if name}
    for entry in map(mapping, mapping(content.get("metadata")).values()):
        name, xy = by_view.get(str(entry.get("vid")), ""), sequence(entry.get("xy"))
        if name and xy:  # what has no place in the picture is about the whole of it
            values = mapping(entry.get("av"))
            regions[name].append(Region(_shape_of_3(xy), _named(values, attributes)))
    options = {
        str(value.get("aname")): [str(option) for option in mapping(value.get("options")).values()]
        for value in attributes.values()
    }
    return regions, options


def _shape_of_3(xy: list[object]) -> dict[str, object]:
    kind, *values = xy
    name, keys = KINDS_OF_3.get(kind, (f"number {kind}", ()))
    if keys:
        return {"name": name, **dict(zip(keys, values, strict=False))}
    try:
        pairs = paired(numbers(values))
    except ValueError:
        pairs = []
    return {"name": name, "all_points_x": [x for x, _ in pairs], "all_points_y": [y for _, y in pairs]}


def _named(values: dict[str, object], attributes: dict[str, dict[str, object]]) -> dict[str, object]:
    """Attributes by name, and options by what they say; check boxes hold the ids of several, with commas between."""
    named: dict[str, object] = {}
    for key, value in values.items():
        attribute = attributes.get(key, {})
        options = mapping(attribute.get("options"))
        name = str(attribute.get("aname", key))
        chosen = [part for part in str(value).split(",") if part in options]
        several = {str(options[part]): True for part in chosen}
        named[name] = several if len(chosen) > 1 else next(iter(several), value)
    return named
