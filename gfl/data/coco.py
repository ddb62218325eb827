"""COCO annotation files -> pictures with boxes, by the rules of the reference's loader.

Legend: N annotations, G boxes of a picture, I crowd boxes of a picture, 4 = x1 y1 x2 y2 in original pixels.
Source: the authors' code (mmdetection's CocoDataset, "the reference" below), https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gfl.data.annotation_index import read_coco_columns
from gfl.data.coco_json import (
    CocoFile,
    Column,
    GroundTruth,
    Ints,
    Mask,
    Table,
    collector_paused,
    ground_truth,
    let_go,
    pieces,
    shown,
)
from gfl.data.lazy import Picked
from gfl.data.pictures import Arrays, Picture, Pictures, Rows, clipped
from gfl.data.shards.pattern import Images, images_at
from gfl.data.source.box_form import MENDS, BoxForms
from gfl.data.source.frames import Frames, read_frames
from gfl.data.source.picture_folder import find_pictures
from gfl.errors import InputError


@dataclass(frozen=True, eq=False)
class CocoData:
    """What one annotation file says: the pictures in order of their ids, the classes, and what was left out."""

    annotations: Path
    pictures: Sequence[Picture]
    names: tuple[str, ...]  # label -> class name
    category_ids: tuple[int, ...]  # label -> the file's category id
    without_boxes: int  # pictures of the file without a box to learn from; among `pictures` if keep_empty
    dropped_boxes: int  # under a pixel wide or high, or marked 'ignore'
    clipped_boxes: int  # kept boxes (crowds too) that reached over the border of their picture
    truth: GroundTruth  # the same file's boxes as evaluation counts them, none dropped or clipped
    images: Images = Path()  # the folder, or the shards, given for the pictures
    unreadable: frozenset[int] = frozenset()  # ids of pictures, of those looked into, that are missing or damaged
    notes: tuple[str, ...] = ()  # what of the file was read otherwise than it is written, a sentence each


@collector_paused()
def read_coco(annotations: str | Path, images: str | Images, *, keep_empty: bool) -> CocoData:
    """Read a COCO annotation file, whose `file_name`s start from the folder `images`, and find the picture files.

    images: a folder, or shards (`gfl.data.shards.pattern`).

    keep_empty: keep pictures without (non-crowd) boxes; evaluation does, the reference's training does not.
    Raises InputError: the file or the folder is missing, is not COCO, or contradicts itself, or no picture is left.
    """
    return data_of_file(read_coco_columns(annotations), images_at(images), keep_empty=keep_empty)


def data_of_file(file: CocoFile, images: Images, *, keep_empty: bool, every_size: bool = False) -> CocoData:
    """As `read_coco`, of a file that was read; every_size: compare the size of each picture, not of some."""
    image_ids = file.images.ids()
    if not len(image_ids):
        raise InputError(f"{file.path}: got an empty list of images, expected at least one picture; check the file")
    if image_ids.min() < 0:
        raise InputError(f"{file.path}: got the image id {image_ids.min()}, expected 0 or more; number the images anew")
    stated_hw = np.stack([file.images.sides(key) for key in ("height", "width")], axis=1)
    truth = ground_truth(file, strict=True)
    file_names = file.images.texts("file_name")
    if not (image_ids[1:] > image_ids[:-1]).all():  # in most files they are in order, and nothing is copied
        by_id = np.argsort(image_ids)
        image_ids, stated_hw, file_names = image_ids[by_id], stated_hw[by_id], Picked(file_names, by_id)
    category_ids = np.array(list(truth.class_names), dtype=np.int64)
    places = partial(_places, file.annotations, truth, image_ids, category_ids)
    picture_N = file.annotations.kept("pictures", places)["picture_N"]
    paths, found = find_pictures(file.path, images, file_names)
    frames = read_frames(file.path, paths, stated_hw, picture_N, truth.boxes_xywh, every=every_size)
    usable = partial(_usable_boxes, file.annotations, truth.crowd, frames, picture_N)
    if frames.grown is not None:
        truth = replace(truth, boxes_xywh=frames.boxes_xywh, areas=truth.areas * frames.grown)
        boxes = usable()
    else:  # they follow from the file and the sizes of its pictures
        boxes = file.annotations.kept(f"boxes-{crc32(frames.sizes_hw.tobytes()):08x}", usable)
    dropped, over_border = boxes["counts"].tolist()
    everything = Pictures(
        Arrays(
            image_ids,
            file_names,
            paths,
            frames.sizes_hw,
            frames.boxes_xywh,
            truth.category_id,
            category_ids,
            Rows(boxes["rows"], boxes["starts"]),
            Rows(boxes["crowd_rows"], boxes["crowd_starts"]),
        ),
        np.arange(len(image_ids)),
    )
    with_boxes = Pictures(everything.arrays, np.flatnonzero(everything.box_counts))
    pictures = everything if keep_empty else with_boxes
    if not pictures:
        raise InputError(_nothing_to_learn(file.path, len(everything), dropped, int(truth.crowd.sum())))
    return CocoData(
        annotations=file.path,
        pictures=pictures,
        names=tuple(truth.class_names.values()),
        category_ids=tuple(truth.class_names),
        without_boxes=len(everything) - len(with_boxes),
        dropped_boxes=dropped,
        clipped_boxes=over_border,
        truth=truth,
        images=images,
        unreadable=frozenset(image_ids[frames.unreadable].tolist()),
        notes=tuple(note for note in (truth.root_note, found, *frames.notes) if note),
    )


def _nothing_to_learn(path: Path, pictures: int, dropped: int, crowds: int) -> str:
    """Why none of the pictures has a box to train on, and what would mend it."""
    reasons = [f"{dropped} boxes were dropped as smaller than a pixel or without area"] if dropped else []
    mend = "add boxes or set KEEP_EMPTY"
    if crowds:
        reasons.append(f"{crowds} are marked 'iscrowd', as some tools mark every mask, and crowds do not train")
        mend = "set iscrowd to 0 where a box is one object (`gfl.data convert --from cvat` does so)"
    why = f" ({', '.join(reasons)})" if reasons else ""
    return f"{path}: none of its {pictures} pictures has a box to learn from{why}; {mend}"


def _usable_boxes(annotations: Table, crowd: Mask, frames: Frames, picture_N: Column) -> Mapping[str, Column]:
    """The rows of the boxes that train and of the crowds, picture after picture; how many were dropped, and clipped.

    Raises InputError where the boxes are no boxes of these pictures.
    """
    xywh, sizes_hw, ignore = frames.boxes_xywh, frames.sizes_hw, annotations.flags("ignore")
    forms, kept, over_border = BoxForms(), np.zeros(len(xywh), np.bool_), 0
    outside: Ints = np.empty(0, np.int64)  # rows
    for piece in pieces(len(xywh), xywh, picture_N, ignore):
        boxes, of_each_hw = xywh[piece], sizes_hw[picture_N[piece]]
        forms.add(boxes, of_each_hw)
        corners, within = clipped(boxes, of_each_hw)
        # The reference keeps boxes that are a pixel wide and high (and of an 'area', which tools write as 0).
        kept[piece] = (boxes[:, 2:] >= 1).all(axis=1) & ~ignore[piece]
        # A box with nothing of it inside its picture says that the file is wrong; the reference drops it silently.
        nowhere = kept[piece] & (within[:, 2:] <= within[:, :2]).any(axis=1)
        outside = np.concatenate([outside, np.flatnonzero(nowhere) + piece.start])
        # Compared as float32: 19.7 + 620.3 ends a rounding error beyond 640 and is not over the border.
        over = (corners.astype(np.float32) != within.astype(np.float32)).any(axis=1)
        over_border += int((over & kept[piece]).sum())
    if forms.form != "xywh":
        looks, mend = MENDS[forms.form]
        raise InputError(
            f"{annotations.path}: its boxes look like {looks} (e.g. {shown(xywh[0].tolist())}), expected x, y, width, "
            f"height in pixels; {mend}"
        )
    if len(outside):
        index = int(outside[0])
        raise InputError(
            f"{annotations.path}: {annotations.name_of(index)} has the box {shown(annotations.row(index)['bbox'])} "
            f"wholly outside its picture ({len(outside)} annotations of {len(xywh)} are so), expected x, y, "
            "width, height in the picture's own pixels; mend or remove these annotations"
        )
    rows, starts = _rows_by_picture(picture_N, kept & ~crowd, len(sizes_hw))
    crowd_rows, crowd_starts = _rows_by_picture(picture_N, kept & crowd, len(sizes_hw))
    let_go(picture_N)
    counts = np.array([len(kept) - int(kept.sum()), over_border])
    return {"rows": rows, "starts": starts, "crowd_rows": crowd_rows, "crowd_starts": crowd_starts, "counts": counts}


def _places(annotations: Table, truth: GroundTruth, image_ids: Ints, category_ids: Ints) -> Mapping[str, Column]:
    """(N,) which picture each annotation is of, checked as its category is."""
    picture_N = _positions(annotations, "image_id", truth.image_id, image_ids, "images")
    _positions(annotations, "category_id", truth.category_id, category_ids, "categories")
    return {"picture_N": picture_N}


def _positions(annotations: Table, key: str, wanted: Ints, known: Ints, among: str) -> NDArray[np.int32]:
    """Where each annotation's id under `key` stands among the sorted ids `known`."""
    found, unknown = np.empty(len(wanted), np.int32), np.zeros(len(wanted), np.bool_)
    for rows in pieces(len(wanted), wanted):
        places = np.searchsorted(known, wanted[rows])
        found[rows] = places
        unknown[rows] = places == len(known)
        unknown[rows] |= known[np.minimum(places, len(known) - 1)] != wanted[rows]
    if unknown.any():
        index = int(np.argmax(unknown))
        raise InputError(
            f"{annotations.path}: {annotations.name_of(index)} has {key} {wanted[index]}, which is not among the "
            f"file's {among} ({int(unknown.sum())} annotations of {len(wanted)} are so); add it there or remove "
            "these annotations"
        )
    return found


def _rows_by_picture(picture_N: Column, chosen: Mask, count: int) -> Rows:
    """The rows of the chosen boxes, those of each of `count` pictures in the file's order."""
    rows: NDArray[np.int32] | Ints = np.flatnonzero(chosen)
    if len(chosen) < 2**31:
        rows = rows.astype(np.int32)
    of_each = picture_N[rows]
    if (of_each[1:] < of_each[:-1]).any():
        rows = rows[np.argsort(of_each, kind="stable")]
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(of_each, minlength=count), out=starts[1:])
    return Rows(rows, starts)
