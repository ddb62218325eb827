"""COCO annotation files -> pictures with boxes, by the rules of the reference's loader.

Legend: N annotations, G boxes of a picture, I crowd boxes of a picture, 4 = x1 y1 x2 y2 in original pixels.
Source: the authors' code (mmdetection's CocoDataset, "the reference" below), https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gfl.data.annotation_index import read_coco_columns
from gfl.data.coco_json import CocoFile, GroundTruth, Ints, Mask, Table, collector_paused, ground_truth, shown
from gfl.data.lazy import Lazy
from gfl.data.picture_files import PictureFile
from gfl.data.shards.pattern import Images, images_at
from gfl.data.source.box_form import MENDS, box_form
from gfl.data.source.frames import read_frames
from gfl.data.source.picture_folder import find_pictures
from gfl.errors import InputError


@dataclass(frozen=True, eq=False)  # arrays have no single truth value: compare field by field
class Picture:
    """One picture of a data set and its boxes, in original pixels, clipped to the picture."""

    id: int
    file_name: str
    path: PictureFile
    height: int
    width: int
    boxes_xyxy: npt.NDArray[np.float32]  # (G,4), in the file's order
    labels: npt.NDArray[np.int32]  # (G,), 0-based: the position of the category id among the sorted ids
    ignored_xyxy: npt.NDArray[np.float32]  # (I,4) crowd boxes


class Rows(NamedTuple):
    """Rows of a table of boxes, picture after picture."""

    rows: Ints
    starts: Ints  # (P + 1,): the rows of picture p are those from starts[p] to starts[p + 1]

    def of(self, picture: int) -> Ints:
        return self.rows[self.starts[picture] : self.starts[picture + 1]]


class Arrays(NamedTuple):
    """All pictures of a file, P, and all its boxes, N."""

    ids: Ints  # (P,)
    file_names: Sequence[str]
    paths: Sequence[PictureFile]
    sizes_hw: Ints  # (P,2)
    boxes_xyxy: npt.NDArray[np.float32]  # (N,4)
    labels: npt.NDArray[np.int32]  # (N,)
    boxes: Rows
    crowds: Rows


class Pictures(Lazy[Picture]):
    """Pictures of a file."""

    def __init__(self, arrays: Arrays, chosen: Ints) -> None:
        """chosen: the positions of these pictures among all."""
        self.arrays, self._chosen = arrays, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def ids(self) -> Ints:
        """(P,) of these pictures."""
        return self.arrays.ids[self._chosen]

    @property
    def sizes_hw(self) -> Ints:
        """(P,2) px."""
        return self.arrays.sizes_hw[self._chosen]

    @property
    def box_counts(self) -> Ints:
        """(P,) boxes to learn from."""
        return np.diff(self.arrays.boxes.starts)[self._chosen]

    @property
    def crowd_counts(self) -> Ints:
        """(P,) crowd boxes."""
        return np.diff(self.arrays.crowds.starts)[self._chosen]

    def make(self, at: int) -> Picture:
        every, at = self.arrays, int(self._chosen[at])
        rows = every.boxes.of(at)
        height, width = every.sizes_hw[at].tolist()
        return Picture(
            id=int(every.ids[at]),
            file_name=every.file_names[at],
            path=every.paths[at],
            height=height,
            width=width,
            boxes_xyxy=every.boxes_xyxy[rows],
            labels=every.labels[rows],
            ignored_xyxy=every.boxes_xyxy[every.crowds.of(at)],
        )


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
    by_id = np.argsort(image_ids)
    image_ids = image_ids[by_id]
    stated_hw = np.stack([file.images.sides(key) for key in ("height", "width")], axis=1)[by_id]
    truth = ground_truth(file, strict=True)
    picture_N = _positions(file.annotations, "image_id", truth.image_id, image_ids, "images")
    category_ids = np.array(list(truth.class_names), dtype=np.int64)
    labels_N = _positions(file.annotations, "category_id", truth.category_id, category_ids, "categories")
    texts = file.images.texts("file_name")
    in_order = bool((np.diff(by_id) > 0).all())  # as in most files: then nothing is copied
    file_names = texts if in_order else [texts[row] for row in by_id.tolist()]
    paths, found = find_pictures(file.path, images, file_names)
    frames = read_frames(file.path, paths, stated_hw, picture_N, truth.boxes_xywh, every=every_size)
    if frames.grown is not None:
        truth = replace(truth, boxes_xywh=frames.boxes_xywh, areas=truth.areas * frames.grown)
    boxes_xyxy, kept, over_border = _clip_boxes(file.annotations, truth, frames.sizes_hw[picture_N])
    labels = labels_N.astype(np.int32)
    everything = Pictures(
        Arrays(
            image_ids,
            file_names,
            paths,
            frames.sizes_hw,
            boxes_xyxy,
            labels,
            _rows_by_picture(picture_N, kept & ~truth.crowd, len(image_ids)),
            _rows_by_picture(picture_N, kept & truth.crowd, len(image_ids)),
        ),
        np.arange(len(image_ids)),
    )
    with_boxes = Pictures(everything.arrays, np.flatnonzero(everything.box_counts))
    pictures = everything if keep_empty else with_boxes
    if not pictures:
        raise InputError(_nothing_to_learn(file.path, len(everything), int((~kept).sum()), int(truth.crowd.sum())))
    return CocoData(
        annotations=file.path,
        pictures=pictures,
        names=tuple(truth.class_names.values()),
        category_ids=tuple(truth.class_names),
        without_boxes=len(everything) - len(with_boxes),
        dropped_boxes=int((~kept).sum()),
        clipped_boxes=int((over_border & kept).sum()),
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


def _clip_boxes(annotations: Table, truth: GroundTruth, sizes_hw: Ints) -> tuple[npt.NDArray[np.float32], Mask, Mask]:
    """(N,4) all boxes, clipped; (N,) those that the reference keeps; (N,) those that reached over the border.

    sizes_hw: (N,2) of the picture of each box.
    """
    xywh = truth.boxes_xywh
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    clipped = np.clip(xyxy, 0.0, sizes_hw[:, [1, 0, 1, 0]].astype(np.float64))
    form = box_form(xywh, sizes_hw)
    if form != "xywh":
        looks, mend = MENDS[form]
        raise InputError(
            f"{annotations.path}: its boxes look like {looks} (e.g. {shown(xywh[0].tolist())}), expected x, y, width, "
            f"height in pixels; {mend}"
        )
    # The reference keeps boxes that are a pixel wide and high (and of an 'area', which tools write as 0).
    kept = (xywh[:, 2:] >= 1).all(axis=1) & ~annotations.flags("ignore")
    # A box with nothing of it inside its picture says that the file is wrong; the reference drops it silently.
    outside = kept & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    if outside.any():
        index = int(np.argmax(outside))
        raise InputError(
            f"{annotations.path}: {annotations.name_of(index)} has the box {shown(annotations.row(index)['bbox'])} "
            f"wholly outside its picture ({int(outside.sum())} annotations of {len(outside)} are so), expected x, y, "
            "width, height in the picture's own pixels; mend or remove these annotations"
        )
    # Compared as float32: 19.7 + 620.3 ends a rounding error beyond 640 and is not over the border.
    clipped_xyxy = clipped.astype(np.float32)
    return clipped_xyxy, kept, (xyxy.astype(np.float32) != clipped_xyxy).any(axis=1)


def _positions(annotations: Table, key: str, wanted: Ints, known: Ints, among: str) -> Ints:
    """Where each annotation's id under `key` stands among the sorted ids `known`."""
    is_known = np.isin(wanted, known)
    if not is_known.all():
        index = int(np.argmin(is_known))
        raise InputError(
            f"{annotations.path}: {annotations.name_of(index)} has {key} {wanted[index]}, which is not among the "
            f"file's {among} ({int((~is_known).sum())} annotations of {len(wanted)} are so); add it there or remove "
            "these annotations"
        )
    return np.searchsorted(known, wanted)


def _rows_by_picture(picture_N: Ints, chosen: Mask, count: int) -> Rows:
    """The rows of the chosen boxes, those of each of `count` pictures in the file's order."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(picture_N[rows], kind="stable")]
    return Rows(rows, np.searchsorted(picture_N[rows], np.arange(count + 1)))
