"""From boxes as a source has them to boxes in pixels of the upright picture, each inside its picture.

What cannot be settled is left out and noted: pictures that cannot be read or were annotated in another form, boxes
without an area, and boxes that lie outside their pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from gfl.data.convert.source import Box, Corners, Notes, Picture, Source, note
from gfl.data.picture_files import decode_picture
from gfl.data.picture_sizes import PictureSize, upright_sizes
from gfl.data.source.frames import read_frames
from gfl.errors import InputError

Readable: TypeAlias = list[tuple[Picture, tuple[int, int]]]  # with height and width, as this project reads them

ROUNDING_PX = 0.01  # tools write two decimals or more: a box that reaches so far over its border is not noted


class Settled(NamedTuple):
    """A picture as it is written."""

    picture: Picture
    height: int
    width: int
    boxes: Sequence[Box]  # px, inside the picture


def settle(source: Source, pictures: Sequence[Picture], file: Path) -> list[Settled]:
    """Settle the pictures of one split; `file` is what messages call the source."""
    readable = _readable(pictures, source.notes)
    scaled = _scaled(readable) if source.in_shares else _framed(readable, file, source.notes)
    settled = []
    for (picture, (height, width)), boxes in zip(readable, scaled, strict=True):
        if boxes is None:
            note(source.notes, "pictures of another form than the annotations say, left out", picture.path.name)
        else:
            settled.append(Settled(picture, height, width, _inside(picture, boxes, height, width, source.notes)))
    return settled


def _readable(pictures: Sequence[Picture], notes: Notes) -> Readable:
    """The pictures that can be read, with their sizes."""
    on_disk = [picture for picture in pictures if picture.content is None]
    sizes: dict[Path, PictureSize | InputError] = dict(
        zip((picture.path for picture in on_disk), upright_sizes([picture.path for picture in on_disk]), strict=True)
    )
    readable = []
    for picture in pictures:
        try:
            size = _content_size(picture.content, picture.path) if picture.content else sizes[picture.path]
        except InputError as error:
            size = error
        if isinstance(size, InputError):
            note(notes, "pictures that cannot be read, left out", picture.path.name)
        else:
            readable.append((picture, (size.height, size.width)))
    return readable


def _content_size(content: bytes, path: Path) -> PictureSize:
    height, width = decode_picture(content, str(path)).shape[:2]
    return PictureSize(height, width, 1)


def _scaled(readable: Readable) -> Iterator[list[Box]]:
    """Boxes in px from shares of the pictures."""
    for picture, (height, width) in readable:
        corners = [_finite(box.corners) for box in picture.boxes]
        in_px = [(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in corners]
        yield [box._replace(corners=each) for box, each in zip(picture.boxes, in_px, strict=True)]


def _framed(readable: Readable, file: Path, notes: Notes) -> Iterator[list[Box] | None]:
    """Boxes in the frame of the pictures as they are read: turned by EXIF, or of another scale than was annotated.

    None for a picture of which it is open where its boxes lie.
    """
    if all(picture.stated_hw in (None, size) for picture, size in readable):
        yield from ([box._replace(corners=_finite(box.corners)) for box in picture.boxes] for picture, _ in readable)
        return
    counts = [len(picture.boxes) for picture, _ in readable]
    corners = np.array([_finite(box.corners) for picture, _ in readable for box in picture.boxes], np.float64)
    corners = corners.reshape(-1, 4)
    frames = read_frames(
        file,
        [picture.path for picture, _ in readable],
        np.array([picture.stated_hw or size for picture, size in readable], np.int64),
        np.repeat(np.arange(len(readable)), counts),
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        every=True,
    )
    for line in frames.notes:
        if "passed over" not in line:  # those are left out here, and named
            note(notes, line, "")
    x, y, width, height = frames.boxes_xywh.T
    rows = iter(np.stack([x, y, x + width, y + height], axis=1).tolist())
    for (picture, true_hw), size in zip(readable, frames.sizes_hw.tolist(), strict=True):
        moved = [box._replace(corners=tuple(next(rows))) for box in picture.boxes]
        yield moved if tuple(size) == true_hw else None


def _finite(corners: Corners) -> Corners:
    return corners if all(map(math.isfinite, corners)) else (0.0, 0.0, 0.0, 0.0)


def _inside(picture: Picture, boxes: Sequence[Box], height: int, width: int, notes: Notes) -> list[Box]:
    """The boxes, clipped to the picture; those of which nothing is left are noted."""
    kept = []
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        name = f"{picture.path.name} ({box.name})"
        if x2 <= x1 or y2 <= y1:
            note(notes, "boxes without an area, left out", name)
        elif clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            note(notes, "boxes wholly outside their pictures, left out", name)
        else:
            if max(abs(a - b) for a, b in zip(clipped, box.corners, strict=True)) > ROUNDING_PX:
                note(notes, "boxes that reached over the border of their pictures, clipped", name)
            if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < 1:
                note(notes, "boxes under a pixel, which are written and training will pass over", name)
            kept.append(box._replace(corners=clipped))
    return kept
