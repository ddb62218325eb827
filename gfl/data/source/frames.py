"""The size that each picture has when it is read, and its boxes in pixels of that picture.

Tools write sizes of 0, from before a phone's picture is turned upright, and of an original that was scaled since. Such
differences are recognised over the data set as a whole; one picture of another size is the loader's to name.
Letters: P pictures, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.picture_files import PictureFile
from gfl.data.picture_sizes import PictureSize, upright_sizes
from gfl.data.shards.index import Members
from gfl.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

READ_ALL = 5000  # pictures up to which the size of every file is read (half a second on a local disk)
PROBED = 1000  # pictures of a larger set, spread over it, whose sizes are read; all, where one of these differs
PROBED_FAR = 200  # the same of shards where each picture costs more than its bytes, of sets of any size
TURNING = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


class Sizes(NamedTuple):
    """The sizes of P pictures as annotated and as read."""

    file: Path  # the annotation file
    paths: Sequence[PictureFile]
    stated_hw: Ints  # (P,2) px; 0 where the file does not say
    true_hw: Ints  # (P,2) px; as stated where the picture was not read
    orientation: Ints  # (P,) by EXIF, 1..8

    def example(self, rows: Mask) -> str:
        """One of the rows in words."""
        row = int(np.argmax(rows))
        (height, width), (true_height, true_width) = self.stated_hw[row].tolist(), self.true_hw[row].tolist()
        return f"{self.paths[row].name} is {true_width}x{true_height}, the file says {width}x{height}"


class Frames(NamedTuple):
    """Pictures and boxes in one frame: that of the pictures as they are read."""

    sizes_hw: Ints  # (P,2) px
    boxes_xywh: Floats  # (N,4) px
    grown: Floats | None  # (N,) how many times as large the area of each box became; None: all stayed as they were
    unreadable: Ints  # pictures, of those looked into, whose size could not be read
    notes: tuple[str, ...]  # what was read or changed, a sentence each


def read_frames(
    file: Path,
    paths: Sequence[PictureFile],
    stated_hw: Ints,
    picture_N: Ints,
    boxes_xywh: Floats,
    *,
    every: bool = False,
) -> Frames:
    """Compare stated sizes with the files', and bring the boxes into the frame of the pictures as they are read.

    Args:
        file: the annotation file, for messages.
        paths: of the P pictures.
        stated_hw: (P,2) height and width as annotated, px; 0 where the file does not say.
        picture_N: (N,) the picture of each box.
        boxes_xywh: (N,4) px of the annotated size.
        every: read the size of every file, however many there are.

    Raises InputError where sizes differ in a way that leaves open where the boxes lie.
    """
    count = len(paths)
    unknown = np.asarray((stated_hw <= 0).any(axis=1), np.bool_)
    chosen = unknown.copy()
    far = isinstance(paths, Members) and not paths.is_near
    most, probed = (PROBED_FAR, PROBED_FAR) if far else (READ_ALL, PROBED)
    chosen[:: 1 if every or count <= most else count // probed] = True
    sizes = Sizes(file, paths, stated_hw, np.where(unknown[:, None], 0, stated_hw), np.ones(count, np.int64))
    unreadable = _read(sizes, np.flatnonzero(chosen))
    if (sizes.true_hw != stated_hw)[chosen & ~unknown].any():
        unreadable += _read(sizes, np.flatnonzero(~chosen))
    notes: list[str] = []
    if unknown.any():
        _guess_unreadable(sizes.true_hw, picture_N, boxes_xywh)
        notes.append(f"pictures without a height or width in {file.name} ({unknown.sum():,}): read from the pictures")
    differs = (sizes.true_hw != stated_hw).any(axis=1) & ~unknown
    scaled = differs & _alike(stated_hw, sizes.true_hw)
    turned = differs & _alike(stated_hw[:, ::-1], sizes.true_hw) & ~scaled
    boxes, grown = boxes_xywh, np.ones(len(boxes_xywh)) if (scaled | turned).any() else None
    if grown is not None:
        boxes = boxes.copy()
    for bring, rows in ((_scaled, scaled), (_turned, turned)):
        if rows.any():
            chosen_N = rows[picture_N]
            boxes[chosen_N], note = bring(sizes, rows, picture_N[chosen_N], boxes_xywh[chosen_N])
            notes.append(note)
    if grown is not None:
        areas, before = boxes[:, 2] * boxes[:, 3], boxes_xywh[:, 2] * boxes_xywh[:, 3]
        np.divide(areas, before, out=grown, where=before > 0)
    other = differs & ~turned & ~scaled
    if other.any():
        notes.append(_other(sizes, other, compared=int((~unknown).sum())))
    return Frames(
        np.where(other[:, None], stated_hw, sizes.true_hw), boxes, grown, np.array(unreadable, np.int64), tuple(notes)
    )


def _read(sizes: Sizes, rows: Ints) -> list[int]:
    """Write the sizes of files into the tables; files that cannot be read keep what stands there, and are returned."""
    indices, unreadable = rows.tolist(), []
    for row, size in zip(indices, upright_sizes([sizes.paths[row] for row in indices]), strict=True):
        if isinstance(size, PictureSize):
            sizes.true_hw[row], sizes.orientation[row] = (size.height, size.width), size.orientation
        else:
            unreadable.append(row)
    return unreadable


def _guess_unreadable(true_hw: Ints, picture_N: Ints, boxes_xywh: Floats) -> None:
    """Give pictures without any known size one that holds their boxes: the loader will name them."""
    lost = np.flatnonzero((true_hw <= 0).any(axis=1))
    for row in lost.tolist():
        ends = (boxes_xywh[picture_N == row, :2] + boxes_xywh[picture_N == row, 2:]).max(axis=0, initial=32.0)
        true_hw[row] = np.ceil(ends[::-1]).astype(np.int64)


def _alike(stated_hw: Ints, true_hw: Ints) -> Mask:
    """(P,2), (P,2) -> (P,): whether the sizes have one aspect ratio, but for the rounding of a resize."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = true_hw / stated_hw
        long = np.maximum(true_hw, stated_hw).max(axis=1)
        return np.asarray(np.abs(ratio[:, 0] / ratio[:, 1] - 1) * long <= 1.5 * np.maximum(1, ratio.max(axis=1)))


def _beyond(boxes_xywh: Floats, sizes_hw: Ints) -> bool:
    """Whether a box reaches beyond its frame by more than rounding."""
    return bool((boxes_xywh[:, :2] + boxes_xywh[:, 2:] > sizes_hw[:, ::-1] * 1.01 + 2).any())


def _scaled(sizes: Sizes, rows: Mask, picture_N: Ints, boxes_xywh: Floats) -> tuple[Floats, str]:
    """Boxes of pictures that were resized after they were annotated."""
    stated_hw, true_hw = sizes.stated_hw[picture_N], sizes.true_hw[picture_N]
    what = f"pictures of another scale than {sizes.file.name} says ({rows.sum():,}: {sizes.example(rows)})"
    if _beyond(boxes_xywh, stated_hw) and not _beyond(boxes_xywh, true_hw):
        return boxes_xywh, f"{what}: the boxes fit the pictures, whose sizes were read from them"
    return boxes_xywh * (true_hw / stated_hw)[:, [1, 0, 1, 0]], f"{what}: their boxes were scaled"


def _turned(sizes: Sizes, rows: Mask, picture_N: Ints, boxes_xywh: Floats) -> tuple[Floats, str]:
    """Boxes of pictures whose height and width are exchanged: by EXIF, or by the tool's mistake."""
    stated_hw, true_hw = sizes.stated_hw[picture_N], sizes.true_hw[picture_N]
    by_exif = np.isin(sizes.orientation[rows], TURNING)
    beyond_stated, beyond_true = _beyond(boxes_xywh, stated_hw), _beyond(boxes_xywh, true_hw)
    what = f"pictures whose height and width are exchanged in {sizes.file.name} ({rows.sum():,}: {sizes.example(rows)})"
    if not beyond_true and (beyond_stated or not by_exif.any()):
        return boxes_xywh, f"{what}: the boxes fit the pictures, whose sizes were read from them"
    if beyond_true and not beyond_stated and by_exif.all():
        turned = turn_boxes(boxes_xywh, stated_hw, sizes.orientation[picture_N])
        factors = (true_hw / stated_hw[:, ::-1])[:, [1, 0, 1, 0]]
        return turned * factors, f"{what}, which is from before EXIF turns them upright: their boxes were turned too"
    raise InputError(
        f"{what}: EXIF turns them upright when they are read, and the boxes do not show whether they are of the "
        "pictures before or after; write the upright sizes into the file, or turn the pictures for good (`exiftool "
        "-Orientation=1 -n` where boxes are from before, `mogrify -auto-orient` where they are from after)"
    )


def turn_boxes(boxes_xywh: Floats, stored_hw: Ints, orientation: Ints) -> Floats:
    """Boxes (N,4) of pictures as they are stored, (N,2) px -> of the pictures turned upright by EXIF, (N,) 1..8."""
    x1, y1 = boxes_xywh[:, 0], boxes_xywh[:, 1]
    x2, y2 = x1 + boxes_xywh[:, 2], y1 + boxes_xywh[:, 3]
    height, width = stored_hw[:, 0], stored_hw[:, 1]
    left = np.isin(orientation, (2, 3))  # mirrored left and right
    x1, x2 = np.where(left, width - x2, x1), np.where(left, width - x1, x2)
    upside = np.isin(orientation, (3, 4))
    y1, y2 = np.where(upside, height - y2, y1), np.where(upside, height - y1, y2)
    # 5: x, y exchanged; 6: a quarter turn clockwise; 7: the other diagonal; 8: a quarter turn anticlockwise
    turned_x1 = np.where(np.isin(orientation, (6, 7)), height - y2, y1)
    turned_y1 = np.where(np.isin(orientation, (7, 8)), width - x2, x1)
    turns = np.isin(orientation, TURNING)
    wide, high = x2 - x1, y2 - y1
    columns = (
        np.where(turns, turned_x1, x1),
        np.where(turns, turned_y1, y1),
        np.where(turns, high, wide),
        np.where(turns, wide, high),
    )
    return np.stack(columns, axis=1)


def _other(sizes: Sizes, rows: Mask, compared: int) -> str:
    """What is said of pictures of quite another size; InputError where they are most of those compared."""
    what = f"pictures of another size than {sizes.file.name} says ({rows.sum():,}: {sizes.example(rows)})"
    if rows.sum() * 2 > compared:
        raise InputError(f"{what}; expected the pictures that were annotated; check the folder, or correct the sizes")
    return f"{what}: passed over; correct the file or leave them out"
