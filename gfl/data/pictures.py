"""The pictures of a data set with their boxes: one at a time as an object, or many at a time as arrays.

Legend: P pictures, N boxes of a file, G boxes of one or several pictures, I crowd boxes, 4 = x1 y1 x2 y2, original px.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.coco_json import Floats, Ints, let_go
from gfl.data.lazy import Lazy, Picked
from gfl.data.picture_files import PictureFile

Boxes = NDArray[np.float32]
Labels = NDArray[np.int32]
TOGETHER = 20_000  # pictures whose boxes are arrays at the same time


@dataclass(frozen=True, eq=False)  # arrays have no single truth value: compare field by field
class Picture:
    """One picture of a data set and its boxes, in original pixels, clipped to the picture."""

    id: int
    file_name: str
    path: PictureFile
    height: int
    width: int
    boxes_xyxy: Boxes  # (G,4), in the file's order
    labels: Labels  # (G,), 0-based: the position of the category id among the sorted ids
    ignored_xyxy: Boxes  # (I,4) crowd boxes


class Part(NamedTuple):
    """Some pictures, their boxes one picture after another."""

    ids: Ints  # (P,)
    sizes_hw: Ints  # (P,2) px
    counts: Ints  # (P,) boxes of each
    boxes_xyxy: Boxes  # (G,4)
    labels: Labels  # (G,)
    ignored_counts: Ints  # (P,) crowd boxes of each
    ignored_xyxy: Boxes  # (I,4)


class Rows(NamedTuple):
    """Rows of a table of boxes, picture after picture."""

    rows: NDArray[np.int32] | Ints
    starts: Ints  # (P + 1,): the rows of picture p are those from starts[p] to starts[p + 1]

    def of(self, pictures: Ints) -> tuple[Ints, Ints]:
        """The rows of some pictures, one picture after another, and (P,) how many each has."""
        starts = self.starts[pictures]
        counts = self.starts[pictures + 1] - starts
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
        return self.rows[places].astype(np.int64), counts


class Arrays(NamedTuple):
    """All pictures of a file, and its boxes as they are written: those of millions are not copied."""

    ids: Ints  # (P,)
    file_names: Sequence[str]
    paths: Sequence[PictureFile]
    sizes_hw: Ints  # (P,2)
    boxes_xywh: Floats  # (N,4)
    box_category_ids: Ints  # (N,) their category ids
    category_ids: Ints  # sorted: a label is a place among them
    boxes: Rows
    crowds: Rows


def clipped(boxes_xywh: Floats, sizes_hw: Ints) -> tuple[Floats, Floats]:
    """(N,4) boxes in pictures of (N,2), or all of (2,), px -> their corners, and these clipped to the pictures."""
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    return corners, np.clip(corners, 0.0, sizes_hw[..., [1, 0, 1, 0]].astype(np.float64))


class Pictures(Lazy[Picture]):
    """Pictures of a file."""

    def __init__(self, arrays: Arrays, chosen: Ints) -> None:
        """chosen: the positions of these pictures among all."""
        self.arrays, self._chosen = arrays, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def pick(self, places: range) -> Pictures:
        return Pictures(self.arrays, self._chosen[np.arange(places.start, places.stop, places.step)])

    @property
    def ids(self) -> Ints:
        """(P,) of these pictures."""
        return self.arrays.ids[self._chosen]

    @property
    def sizes_hw(self) -> Ints:
        """(P,2) px."""
        return self.arrays.sizes_hw[self._chosen]

    @property
    def paths(self) -> Sequence[PictureFile]:
        """Of these pictures."""
        return Picked(self.arrays.paths, self._chosen)

    @property
    def names(self) -> Sequence[str]:
        """Of these pictures' files."""
        return Picked(self.arrays.file_names, self._chosen)

    @property
    def box_counts(self) -> Ints:
        """(P,) boxes to learn from."""
        return np.diff(self.arrays.boxes.starts)[self._chosen]

    @property
    def crowd_counts(self) -> Ints:
        """(P,) crowd boxes."""
        return np.diff(self.arrays.crowds.starts)[self._chosen]

    @cached_property
    def boxes_a_label(self) -> Ints:
        """Boxes to learn from, by label."""
        every, counts = self.arrays, np.zeros(len(self.arrays.category_ids), np.int64)
        for start in range(0, len(self), TOGETHER):
            rows, _ = every.boxes.of(self._chosen[start : start + TOGETHER])
            labels = np.searchsorted(every.category_ids, every.box_category_ids[rows])
            counts += np.bincount(labels, minlength=len(counts))
            self.let_go()
        return counts

    def let_go(self) -> None:
        """Give back what was read of the boxes, where these are mapped files."""
        let_go(self.arrays.boxes_xywh, self.arrays.box_category_ids, self.arrays.boxes.rows, self.arrays.crowds.rows)

    def part(self, start: int, end: int) -> Part:
        """Those from one place to another."""
        every, chosen = self.arrays, self._chosen[start:end]
        sizes_hw = every.sizes_hw[chosen]
        rows, counts = every.boxes.of(chosen)
        crowds, crowd_counts = every.crowds.of(chosen)
        boxes, ignored = (
            clipped(every.boxes_xywh[some], np.repeat(sizes_hw, of_each, axis=0))[1].astype(np.float32)
            for some, of_each in ((rows, counts), (crowds, crowd_counts))
        )
        labels = np.searchsorted(every.category_ids, every.box_category_ids[rows]).astype(np.int32)
        return Part(every.ids[chosen], sizes_hw, counts, boxes, labels, crowd_counts, ignored)

    def make(self, at: int) -> Picture:
        part = self.part(at, at + 1)
        at = int(self._chosen[at])
        height, width = part.sizes_hw[0].tolist()
        return Picture(
            id=int(part.ids[0]),
            file_name=self.arrays.file_names[at],
            path=self.arrays.paths[at],
            height=height,
            width=width,
            boxes_xyxy=part.boxes_xyxy,
            labels=part.labels,
            ignored_xyxy=part.ignored_xyxy,
        )


def parts(pictures: Sequence[Picture], together: int = TOGETHER) -> Iterator[Part]:
    """The pictures in their order, at most `together` at a time."""
    for start in range(0, len(pictures), together):
        if isinstance(pictures, Pictures):
            yield pictures.part(start, min(start + together, len(pictures)))
            pictures.let_go()
        else:
            yield _part_of(pictures[start : start + together])


def _part_of(pictures: Sequence[Picture]) -> Part:
    """Pictures that are objects already, as arrays."""
    return Part(
        ids=np.array([picture.id for picture in pictures], np.int64),
        sizes_hw=np.array([(picture.height, picture.width) for picture in pictures], np.int64),
        counts=np.array([len(picture.boxes_xyxy) for picture in pictures], np.int64),
        boxes_xyxy=np.concatenate([picture.boxes_xyxy for picture in pictures]),
        labels=np.concatenate([picture.labels for picture in pictures]),
        ignored_counts=np.array([len(picture.ignored_xyxy) for picture in pictures], np.int64),
        ignored_xyxy=np.concatenate([picture.ignored_xyxy for picture in pictures]),
    )


# ---- of any pictures ----


def ids_of(pictures: Sequence[Picture]) -> Ints:
    """(P,) their ids."""
    if isinstance(pictures, Pictures):
        return pictures.ids
    return np.array([picture.id for picture in pictures], dtype=np.int64)


def sizes_of(pictures: Sequence[Picture]) -> Ints:
    """(P,2) original heights and widths."""
    if isinstance(pictures, Pictures):
        return pictures.sizes_hw
    return np.array([(picture.height, picture.width) for picture in pictures], dtype=np.int64).reshape(-1, 2)


def paths_of(pictures: Sequence[Picture]) -> Sequence[PictureFile]:
    """Their paths."""
    if isinstance(pictures, Pictures):
        return pictures.paths
    return [picture.path for picture in pictures]


def names_of(pictures: Sequence[Picture]) -> Sequence[str]:
    """Their file names."""
    if isinstance(pictures, Pictures):
        return pictures.names
    return [picture.file_name for picture in pictures]


def box_counts(pictures: Sequence[Picture]) -> Ints:
    """(P,) boxes of each."""
    if isinstance(pictures, Pictures):
        return pictures.box_counts
    return np.array([len(picture.boxes_xyxy) for picture in pictures], dtype=np.int64)


def crowd_counts(pictures: Sequence[Picture]) -> Ints:
    """(P,) crowd boxes of each."""
    if isinstance(pictures, Pictures):
        return pictures.crowd_counts
    return np.array([len(picture.ignored_xyxy) for picture in pictures], dtype=np.int64)


def boxes_a_label(pictures: Sequence[Picture], labels: int) -> Ints:
    """(labels,) boxes to learn from, by label."""
    if isinstance(pictures, Pictures):
        return pictures.boxes_a_label
    counts = np.zeros(labels, np.int64)
    for part in parts(pictures):
        counts += np.bincount(part.labels, minlength=labels)
    return counts
