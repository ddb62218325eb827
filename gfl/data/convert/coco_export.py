"""COCO as annotation tools export it: Roboflow's, CVAT's and Label Studio's, each with its own habits.

Roboflow writes a root category that has no boxes, only to be the supercategory of the others. CVAT marks what was
drawn with a brush as a crowd, which a training would pass over. Label Studio writes the sizes of files before EXIF
turns them, and boxes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.data.coco_json import CocoFile, Row, read_coco_file
from gfl.data.convert.files import mapping, numbers, sequence, stated_size
from gfl.data.convert.find import find_picture
from gfl.data.convert.shapes import bounding_box, paired
from gfl.data.convert.source import Box, Corners, Notes, Picture, PictureIndex, note
from gfl.data.values import box as box_value
from gfl.data.values import flag, integer


class Export(NamedTuple):
    """One COCO file of a tool, and where its pictures are."""

    split: str
    file: Path
    found_in: PictureIndex


class Habits(NamedTuple):
    """What a tool does in its own way."""

    root_category: bool = False  # a category that stands for none is left out
    crowds: bool = True  # iscrowd means what COCO means by it
    sizes: bool = True  # the stated sizes are those that the boxes were drawn in


def read_exports(exports: Sequence[Export], habits: Habits, notes: Notes) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures by split, and the classes in the order of their ids; splits with different classes are merged."""
    files = [read_coco_file(export.file) for export in exports]
    roots = _root_names(files) if habits.root_category else set()
    for name in sorted(roots):
        note(notes, "root categories without boxes, left out", name)
    names: list[str] = []
    splits: dict[str, list[Picture]] = {}
    for export, file in zip(exports, files, strict=True):
        by_id = _names_by_id(file)
        names += [name for _, name in sorted(by_id.items()) if name not in roots and name not in names]
        splits.setdefault(export.split, []).extend(_pictures(export, file, by_id, habits, notes))
    used = {box.name for pictures in splits.values() for picture in pictures for box in picture.boxes}
    return splits, names + sorted(used - set(names))


def _names_by_id(file: CocoFile) -> dict[int, str]:
    return dict(zip(file.categories.ids().tolist(), file.categories.texts("name"), strict=True))


def _root_names(files: Sequence[CocoFile]) -> set[str]:
    """Names of categories that are a supercategory of others, have none themselves, and have no box in any file."""
    roots: set[str] = set()
    with_boxes: set[str] = set()
    for file in files:
        by_id = _names_by_id(file)
        supers = [str(row.get("supercategory", "")) for row in file.categories.rows]
        tops = [name for name, above in zip(by_id.values(), supers, strict=True) if above in ("none", "")]
        roots |= {name for name in tops if name in supers}
        with_boxes |= {by_id.get(_id(row.get("category_id")), "") for row in file.annotations.rows}
    return roots - with_boxes


def _pictures(export: Export, file: CocoFile, by_id: dict[int, str], habits: Habits, notes: Notes) -> list[Picture]:
    rows: dict[int, list[Row]] = {}
    for row in file.annotations.rows:
        rows.setdefault(_id(row.get("image_id")), []).append(row)
    pictures = []
    names = file.images.texts("file_name")
    for row, name, picture_id in zip(file.images.rows, names, file.images.ids().tolist(), strict=True):
        own = rows.pop(picture_id, [])
        path = find_picture(export.found_in, name, notes)
        if path is None:
            continue
        boxes = [box for each in own if (box := _box(each, name, by_id, habits, notes)) is not None]
        stated = stated_size(row.get("height"), row.get("width")) if habits.sizes else None
        pictures.append(Picture(path, boxes, stated))
    for picture_id, lost in rows.items():
        for _ in lost:
            note(notes, "annotations of a picture that the file does not name, left out", f"image_id {picture_id}")
    return pictures


def _box(row: Row, picture: str, by_id: dict[int, str], habits: Habits, notes: Notes) -> Box | None:
    name = by_id.get(_id(row.get("category_id")))
    if name is None:
        note(notes, "annotations of a category that the file does not name, left out", picture)
        return None
    try:
        corners = _corners(row, picture, name, notes)
        crowd = flag(row.get("iscrowd"))
    except (ValueError, TypeError):
        note(notes, "annotations without a box, left out", f"{picture} ({name})")
        return None
    if crowd and habits.crowds:
        note(notes, "crowds, which are kept as such", f"{picture} ({name})")
    elif crowd:
        note(notes, "masks that the tool marks as crowds, taken as ordinary boxes", f"{picture} ({name})")
    return Box(name, corners, crowd=crowd and habits.crowds)


def _corners(row: Row, picture: str, name: str, notes: Notes) -> Corners:
    if row.get("bbox"):
        x, y, width, height = box_value(row["bbox"])
        return x, y, x + width, y + height
    outlines = [numbers(sequence(outline)) for outline in sequence(row.get("segmentation"))]
    corners = bounding_box(point for outline in outlines for point in paired(outline))
    note(notes, "polygons without a box that became their bounding boxes", f"{picture} ({name})")
    return corners


def _id(value: object) -> int:
    try:
        return integer(value)
    except ValueError:
        return -1  # of nothing


def is_coco(value: object) -> bool:
    """Whether a JSON value is a COCO file."""
    content = mapping(value)
    return all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories"))
