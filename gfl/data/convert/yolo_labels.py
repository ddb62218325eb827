"""The lines of a YOLO label file: a class and four numbers, or more of them, as shares of the picture.

Shares are of the picture as a person sees it, upright by its EXIF orientation: annotation tools show it so.
Source: https://docs.ultralytics.com/datasets/ (detect, segment, obb, pose).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gfl.data.convert.files import numbers, read_text
from gfl.data.convert.shapes import bounding_box, paired
from gfl.data.convert.source import Box, Corners, Notes, note

FARTHEST = 1.5  # a share beyond it is taken for pixels
BAD = "lines of label files that are no box, left out"


def read_labels(path: Path, names: Sequence[str] | None, keypoints: bool, notes: Notes) -> list[Box]:
    """The boxes of a label file, as shares; lines that are none are noted.

    names: the classes by number; None: their numbers are their names.
    keypoints: the numbers after a box are points of a pose.
    """
    boxes = []
    for count, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            try:
                boxes.append(_read_line(line.split(), names, keypoints, path, notes))
            except ValueError as error:
                note(notes, BAD, f"{path.name}:{count}: {str(error) or 'not numbers'}")
    return boxes


def _read_line(words: list[str], names: Sequence[str] | None, keypoints: bool, path: Path, notes: Notes) -> Box:
    try:
        label, *values = numbers(words)
    except ValueError:
        raise ValueError(f"{' '.join(words)[:40]!r} are not numbers") from None
    if not label.is_integer() or label < 0 or (names is not None and label >= len(names)):
        known = "" if names is None else f", expected 0 to {len(names) - 1}"
        raise ValueError(f"class {words[0]}{known}")
    corners = _corners(values, keypoints, path, notes)
    if max(map(abs, corners)) > FARTHEST:
        raise ValueError(f"{' '.join(words)[:40]!r} are no shares of the picture from 0 to 1")
    return Box(str(int(label)) if names is None else names[int(label)], corners)


def _corners(values: list[float], keypoints: bool, path: Path, notes: Notes) -> Corners:
    count = len(values)
    if keypoints and count > 4:
        note(notes, "poses, of which the boxes were taken", path.name)
        values = values[:4]
    elif count == 5:
        note(notes, "boxes with a score, which was left out", path.name)
        values = values[:4]
    elif count == 9:
        note(notes, "boxes with a score, which was left out", path.name)
        values = values[:8]
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{count} numbers after the class, expected 4, or an even number from 6 on")
    shape = "oriented boxes or polygons of four corners" if len(values) == 8 else "polygons"
    note(notes, f"{shape} that became their bounding boxes", path.name)
    return bounding_box(paired(values))
