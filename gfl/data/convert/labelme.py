"""LabelMe (wkentaro/labelme): a .json beside each picture, with its shapes and, often, the picture itself.

A picture without a .json was not annotated, which is not the same as a picture without objects: it is left out.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Sequence
from math import dist
from pathlib import Path

from gfl.data.convert.files import entries, mapping, points, read_json, stated_size
from gfl.data.convert.find import files_below, find_picture, index_pictures
from gfl.data.convert.shapes import bounding_box, ellipse_box
from gfl.data.convert.source import (
    UNSPLIT,
    Box,
    Corners,
    Notes,
    Picture,
    PictureIndex,
    Request,
    Source,
    note,
    sorted_names,
)
from gfl.data.picture_files import PICTURES
from gfl.errors import InputError

Points = Sequence[tuple[float, float]]
WITHOUT_AREA = ("point", "points", "line", "linestrip")


def read_labelme(request: Request) -> Source:
    """Read a folder of LabelMe's .json files, or one of them."""
    source = request.source
    files = [path for path in files_below(source) if path.suffix.lower() == ".json"] if source.is_dir() else [source]
    index = index_pictures(request.images or (source if source.is_dir() else source.parent))
    notes: Notes = {}
    pictures = [picture for path in files if (picture := _read_file(path, index, notes)) is not None]
    if not files or (not pictures and not notes):
        raise InputError(f"{source}: got no .json in it, expected LabelMe's; give the folder of the annotated pictures")
    splits = {UNSPLIT: pictures}
    return Source(splits, sorted_names(splits), notes, indexes=[index])


def _read_file(path: Path, index: PictureIndex, notes: Notes) -> Picture | None:
    try:
        content = mapping(read_json(path))
    except InputError as error:
        note(notes, "annotation files that cannot be read, left out", str(error))
        return None
    if not isinstance(content.get("shapes"), list):
        note(notes, "files that are not LabelMe's, left out", path.name)
        return None
    for flag, is_set in mapping(content.get("flags")).items():
        if is_set:
            note(notes, "flags of whole pictures, left out", f"{path.name} ({flag})")
    boxes = [box for shape in entries(content["shapes"], notes, path.name) if (box := _box(shape, path.name, notes))]
    stated = stated_size(content.get("imageHeight"), content.get("imageWidth"))
    named = str(content.get("imagePath") or "").replace("\\", "/")
    beside = path.parent / named
    found = beside if named and os.path.isfile(beside) else None  # False for names that no file can have
    if found is None:
        found = find_picture(index, named or path.stem, {}) or find_picture(
            index, (path.parent / path.stem).as_posix(), {}
        )
    if found is not None:
        return Picture(found, boxes, stated)
    embedded = _embedded(content.get("imageData"), path, notes)
    if embedded is None:
        find_picture(index, named or path.stem, notes)  # to write down why
        return None
    name = Path(named).name
    name = name if Path(name).suffix.lower() in PICTURES else f"{path.stem}.png"
    note(notes, "pictures that are not there, written from their .json", name)
    return Picture(path.parent / name, boxes, stated, content=embedded)


def _embedded(data: object, path: Path, notes: Notes) -> bytes | None:
    """The picture within a .json; None where there is none."""
    if not isinstance(data, str) or not data:
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        note(notes, "pictures within a .json that cannot be read", path.name)
        return None


def _box(shape: dict[str, object], file: str, notes: Notes) -> Box | None:
    kind = str(shape.get("shape_type") or "polygon")  # files of before version 3.4 have polygons alone
    label = shape.get("label")
    name = f"{file} ({label})"
    if kind in WITHOUT_AREA:
        note(notes, f"{kind if kind == 'points' else kind + 's'} without an area, left out", name)
        return None
    if kind not in SHAPES or not isinstance(label, str) or not label:
        note(
            notes,
            "shapes without a label, left out" if kind in SHAPES else f"shapes of the kind {kind}, left out",
            name,
        )
        return None
    try:
        corners = SHAPES[kind](points(shape.get("points")))
    except (ValueError, TypeError):
        note(notes, "shapes whose points cannot be read, left out", name)
        return None
    if kind != "rectangle":
        note(notes, f"{kind.replace('_', ' ')}s that became their bounding boxes", name)
    return Box(label, corners)


def _circle(both: Points) -> Corners:
    """A circle by its centre and a point of its border."""
    centre, border = both
    return ellipse_box(centre, (dist(centre, border), dist(centre, border)))


SHAPES: dict[str, Callable[[Points], Corners]] = {
    "rectangle": bounding_box,
    "polygon": bounding_box,
    "oriented_rectangle": bounding_box,
    "mask": bounding_box,  # its two points are the corners of its box
    "circle": _circle,
}
