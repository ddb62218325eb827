"""Large pictures in slices: windows that overlap, each looked at as a picture, and what they find merged.

The whole picture, shrunk, is looked at too, for what is larger than a window. An object that the edge of a window cuts
gives fragments, boxes that end at that edge. A fragment goes where another view shows the object beyond the edge;
fragments that continue one another become one box; then one NMS chooses among the boxes of all views, as the model's
own does within one.

Shapes: N boxes of a picture, in its pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import pairwise_iou
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.runtime.description import Description
from gfl.runtime.merging import Found, join_found
from gfl.runtime.result import PictureInfo, Result

LEAST_SIDE, MOST_OVERLAP = 32, 0.9
DEFAULT_OVERLAP = 0.2
AT_CUT = 0.01  # of a window's side: an edge of a box so near to the window's own is cut by it
MOST_CELLS = 64  # of a grid that a box is looked up in; a larger one is compared with all
SAME_PART = 0.5  # IoU from which a fragment is the part of another box that its window shows
# IoU of the extents along a cut from which fragments on both sides are of one object: both windows show all of
# it. Among cells that touch, 0.5 joined neighbours (AP .459 on a mosaic of BCCD; 0.9: .489; never: .485).
SAME_EXTENT = 0.9

Bools = NDArray[np.bool_]


class Slicing(NamedTuple):
    """How a picture is cut."""

    side: int  # of a window, px of the picture
    overlap: float = DEFAULT_OVERLAP  # of neighbours, at least, as a share of the side


class Window(NamedTuple):
    """A part of a picture, px; right and bottom are the first outside."""

    left: int
    top: int
    right: int
    bottom: int


class View(NamedTuple):
    """A window and its picture, which may be smaller than it."""

    window: Window
    image: Image


class Rows(Protocol):
    """A picture that is read by rows, from the top to the bottom."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""

    def rows(self, top: int, bottom: int) -> Image:
        """These rows, (bottom - top, width, 3) RGB; neither end is above that of the call before."""

    def shrunk(self) -> Image:
        """The whole picture, small enough to be held."""


class Decoded(NamedTuple):
    """A picture in memory, as `Rows`."""

    image: Image

    @property
    def size_hw(self) -> tuple[int, int]:
        """As of `Rows`."""
        return self.image.shape[0], self.image.shape[1]

    def rows(self, top: int, bottom: int) -> Image:
        """As of `Rows`, without a copy."""
        return self.image[top:bottom]

    def shrunk(self) -> Image:
        """The picture itself."""
        return self.image


def read_slicing(side: int | None, overlap: float | None) -> Slicing | None:
    """The slices that a user asks for; None: none. InputError for values that no picture can be cut by."""
    if side is None:
        if overlap is not None:
            raise InputError(f"got an overlap of {overlap!r} without a slice, expected both; give the side of a slice")
        return None
    if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < LEAST_SIDE:
        raise InputError(f"got a slice of {side!r}, expected at least {LEAST_SIDE} px; give for example 800")
    overlap = DEFAULT_OVERLAP if overlap is None else overlap
    is_number = isinstance(overlap, (int, float, np.floating)) and not isinstance(overlap, bool)
    if not is_number or not 0 <= overlap <= MOST_OVERLAP:
        raise InputError(
            f"got an overlap of {overlap!r}, expected a share from 0 to {MOST_OVERLAP}; give for example 0.2"
        )
    return Slicing(int(side), float(overlap))


def spans(length: int, slicing: Slicing) -> list[tuple[int, int]]:
    """Where windows begin and end along a side of a picture: evenly, the first at 0, the last at its end.

    >>> spans(2000, Slicing(800, 0.2))
    [(0, 800), (600, 1400), (1200, 2000)]
    >>> spans(640, Slicing(800, 0.2))
    [(0, 640)]
    """
    side = slicing.side
    if length <= side:
        return [(0, length)]
    step = max(1, math.floor(side * (1 - slicing.overlap) + 1e-9))
    starts = np.linspace(0, length - side, math.ceil((length - side) / step) + 1).round().astype(int)
    return [(start, start + side) for start in starts.tolist()]


def count_views(size_hw: tuple[int, int], slicing: Slicing | None) -> int:
    """How many `views_of` gives."""
    if slicing is None:
        return 1
    windows = math.prod(len(spans(side, slicing)) for side in size_hw)
    return 1 if windows == 1 else 1 + windows


def views_of(picture: Rows, slicing: Slicing | None) -> Iterator[View]:
    """The whole picture, then its windows row by row; of a picture that fits into one window, itself alone."""
    height, width = picture.size_hw
    yield View(Window(0, 0, width, height), picture.shrunk())
    if slicing is None or count_views((height, width), slicing) == 1:
        return
    across, down = spans(width, slicing), spans(height, slicing)
    for top, bottom in down:
        rows = picture.rows(top, bottom)
        for left, right in across:
            yield View(Window(left, top, right, bottom), rows[:, left:right])


def merge_views(views: Sequence[tuple[Window, Result]], info: PictureInfo, about: Description) -> Result:
    """The results of a picture's views, each in the pixels of its own picture, as one; more than the model gives at
    most in one view may be left. info: of the whole picture; `resized_hw` counts for nothing."""
    if len(views) == 1 and views[0][1].size_hw == info.size_hw:
        return replace(views[0][1], source=info.source, image=info.image)
    placed = [to_picture(result, window) for window, result in views]
    pairs = zip(placed, views, strict=True)
    cuts = np.concatenate([cut_edges(found.boxes_xyxy, window, info.size_hw) for found, (window, _) in pairs])
    origin = np.repeat(np.arange(len(views)), [len(found.scores) for found in placed])
    windows = np.array([window for window, _ in views], np.float64)
    boxes = Boxes(join_found(placed), cuts, windows[origin])
    rule = about.thresholds
    classes = [boxes.found.labels == label for label in np.unique(boxes.found.labels)]
    alone = [np.ones(len(origin), np.bool_)] if rule.class_agnostic else classes
    merged = join_found([merge_class(boxes.select(part), rule.nms_iou) for part in alone] or [boxes.found])
    merged = merged.select(np.argsort(-merged.scores, kind="stable"))
    labels = merged.labels.astype(np.int32)
    return Result(
        boxes_xyxy=merged.boxes_xyxy.astype(np.float32),
        scores=merged.scores.astype(np.float32),
        labels=labels,
        names=tuple(about.names[label] for label in labels),
        category_ids=tuple(about.category_ids[label] for label in labels),
        edge_std=merged.edge_std.astype(np.float32),
        score_thresholds=np.array(about.score_thresholds, np.float32)[labels],
        complete=all(result.complete for _, result in views),
        size_hw=info.size_hw,
        source=info.source,
        image=info.image,
    )


class Gathering:
    """The results of views, in whatever order they come, as those of their pictures."""

    def __init__(self, about: Description) -> None:
        """about: what the model says of itself."""
        self._about = about
        self._pictures: dict[int, tuple[PictureInfo, int, dict[int, tuple[Window, Result]]]] = {}
        self._views: dict[int, tuple[int, Window]] = {}

    def begin(self, picture: int, info: PictureInfo, views: int) -> None:
        """A picture, by its number, which has so many views."""
        self._pictures[picture] = (info, views, {})

    def expect(self, view: int, picture: int, window: Window) -> None:
        """A view, by its number among those of all pictures."""
        self._views[view] = (picture, window)

    def add(self, view: int, result: Result) -> tuple[int, Result] | None:
        """The result of a view; a picture and its result where this was the last of its views."""
        picture, window = self._views.pop(view)
        if picture not in self._pictures:  # dropped
            return None
        info, views, results = self._pictures[picture]
        results[view] = window, result
        if len(results) < views:
            return None
        del self._pictures[picture]
        return picture, merge_views([results[each] for each in sorted(results)], info, self._about)

    def fail(self, view: int) -> int | None:
        """A view that came to nothing; its picture, or None where that was dropped before."""
        picture, _ = self._views.pop(view)
        return picture if picture in self._pictures else None

    def drop(self, picture: int) -> None:
        """A picture that cannot be read to its end."""
        self._pictures.pop(picture, None)


def to_picture(result: Result, window: Window) -> Found:
    """What was found in a window, in the pixels of the picture."""
    height, width = result.size_hw
    scale = np.array([(window.right - window.left) / width, (window.bottom - window.top) / height] * 2, np.float32)
    offset = np.array([window.left, window.top] * 2, np.float32)
    return Found(result.boxes_xyxy * scale + offset, result.scores, result.labels, result.edge_std * scale)


def cut_edges(boxes_xyxy: NDArray[np.floating], window: Window, size_hw: tuple[int, int]) -> Bools:
    """(N,4): which edges of boxes lie at an edge of their window that is none of the picture's."""
    near = AT_CUT * np.array([window.right - window.left, window.bottom - window.top] * 2)
    inside = np.array(window) != np.array([0, 0, size_hw[1], size_hw[0]])
    return np.asarray((np.abs(boxes_xyxy - np.array(window)) <= near) & inside)


class Boxes(NamedTuple):
    """Boxes of one class from all views."""

    found: Found
    cuts: Bools  # (N,4) edges that a window cuts
    windows: NDArray[np.float64]  # (N,4) of their views

    def select(self, chosen: NDArray[np.intp] | Bools) -> Boxes:
        """Those of a mask (N,) or at these places."""
        places = np.arange(len(self.cuts))[chosen]
        return Boxes(self.found.select(places), self.cuts[places], self.windows[places])


def merge_class(boxes: Boxes, iou: float) -> Found:
    """Without fragments of what other boxes show whole, with fragments of one object joined, and after NMS."""
    boxes = without_fragments(boxes, np.asarray(~boxes.cuts.any(axis=1)))
    joined = join_fragments(boxes)
    boxes = without_fragments(joined, np.full(len(joined.cuts), True))
    return nms(boxes.found, iou)


def without_fragments(boxes: Boxes, wholes: Bools) -> Boxes:
    """Without each box that is what its window shows of one of the `wholes`, which reaches beyond every cut of it."""
    xyxy, cuts, windows = boxes.found.boxes_xyxy.astype(np.float64), boxes.cuts, boxes.windows
    near = Neighbours(xyxy)
    stays = np.ones(len(xyxy), np.bool_)
    outwards = np.array([-1, -1, 1, 1])
    for i in np.flatnonzero(cuts.any(axis=1)).tolist():
        others = near.of(i)
        others = others[wholes[others] & stays[others] & (others != i)]
        margin = AT_CUT * (windows[i, 2:] - windows[i, :2])[[0, 1, 0, 1]]
        beyond = ((xyxy[others] - windows[i]) * outwards > margin)[:, cuts[i]].all(axis=1)
        others = others[beyond]
        if len(others):
            shown = np.clip(xyxy[others], windows[i, [0, 1, 0, 1]], windows[i, [2, 3, 2, 3]])
            stays[i] = pairwise_iou(xyxy[i : i + 1], shown).max() < SAME_PART
    return boxes.select(stays)


def join_fragments(boxes: Boxes) -> Boxes:
    """With fragments that continue one another over a cut as one box: its edges are the outermost, each with its own
    spread, its score the best; an edge is cut where the outermost is."""
    xyxy, cuts = boxes.found.boxes_xyxy.astype(np.float64), boxes.cuts
    near, group = Neighbours(xyxy), np.arange(len(xyxy))
    for i in np.flatnonzero(cuts[:, 2:].any(axis=1)).tolist():
        for j in near.of(i, margin=AT_CUT * (boxes.windows[i, 2:] - boxes.windows[i, :2]).max()):
            if any(continues(xyxy, cuts, boxes.windows, (i, int(j)), axis) for axis in (0, 1)):
                group[group == group[j]] = group[i]
    kept = np.array([np.flatnonzero(group == name)[0] for name in np.unique(group)], np.intp)
    if len(kept) == len(group):
        return boxes
    found, edges = boxes.found, np.arange(4)
    out_xyxy, out_std = found.boxes_xyxy.copy(), found.edge_std.copy()
    out_scores, out_cuts, out_windows = found.scores.copy(), cuts.copy(), boxes.windows.copy()
    for place in kept:
        members = np.flatnonzero(group == group[place])
        if len(members) == 1:
            continue
        outermost = members[np.concatenate([xyxy[members, :2].argmin(axis=0), xyxy[members, 2:].argmax(axis=0)])]
        out_xyxy[place], out_std[place] = found.boxes_xyxy[outermost, edges], found.edge_std[outermost, edges]
        out_cuts[place], out_windows[place] = cuts[outermost, edges], boxes.windows[outermost, edges]
        out_scores[place] = found.scores[members].max()
    return Boxes(Found(out_xyxy, out_scores, found.labels, out_std), out_cuts, out_windows).select(kept)


def continues(
    xyxy: NDArray[np.float64], cuts: Bools, windows: NDArray[np.float64], pair: tuple[int, int], axis: int
) -> bool:
    """Whether of two boxes the first is cut at its right (axis 0) or bottom (1) and the second goes on from there."""
    i, j = pair
    low, high, other = axis, axis + 2, 1 - axis
    margin = AT_CUT * (windows[i, high] - windows[i, low])
    if not (cuts[i, high] and cuts[j, low] and windows[i, low] < windows[j, low] < windows[i, high] + margin):
        return False
    if xyxy[j, high] <= xyxy[i, high] + margin or xyxy[i, low] >= xyxy[j, low] - margin:
        return False
    shared = min(xyxy[i, other + 2], xyxy[j, other + 2]) - max(xyxy[i, other], xyxy[j, other])
    spanned = max(xyxy[i, other + 2], xyxy[j, other + 2]) - min(xyxy[i, other], xyxy[j, other])
    return bool(shared >= SAME_EXTENT * spanned)


def nms(found: Found, iou: float) -> Found:
    """The best box, without those that overlap it by more than `iou`, and so on; only near ones are compared."""
    xyxy = found.boxes_xyxy.astype(np.float64)
    near, stays, kept = Neighbours(xyxy), np.ones(len(xyxy), np.bool_), []
    for i in np.argsort(-found.scores, kind="stable").tolist():
        if stays[i]:
            kept.append(i)
            others = near.of(i)
            stays[others[pairwise_iou(xyxy[i : i + 1], xyxy[others])[0] > iou]] = False
    return found.select(np.array(kept, np.intp))


class Neighbours:
    """Which boxes may touch a box, by the cells of a grid: a picture of 31 x 31 windows has boxes in tens of thousands,
    of which each meets a few."""

    def __init__(self, xyxy: NDArray[np.float64]) -> None:
        sides = xyxy[:, 2:] - xyxy[:, :2]
        self._cell = max(float(np.median(sides)) * 4, 1.0) if len(xyxy) else 1.0
        self._xyxy = xyxy
        cells: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._everywhere: list[int] = []  # what would lie in very many cells
        for i in range(len(xyxy)):
            left, top, right, bottom = self._span(i, 0.0)
            if (right - left) * (bottom - top) > MOST_CELLS:
                self._everywhere.append(i)
                continue
            for column in range(left, right):
                for row in range(top, bottom):
                    cells[column, row].append(i)
        self._cells = {cell: np.array(places, np.intp) for cell, places in cells.items()}

    def _span(self, i: int, margin: float) -> tuple[int, int, int, int]:
        low = np.floor((self._xyxy[i, :2] - margin) / self._cell).astype(int)
        high = np.floor((self._xyxy[i, 2:] + margin) / self._cell).astype(int) + 1
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def of(self, i: int, margin: float = 0.0) -> NDArray[np.intp]:
        """The places of boxes in the cells of the box at a place and within a margin, px, itself among them."""
        left, top, right, bottom = self._span(i, margin)
        if (right - left) * (bottom - top) > MOST_CELLS:
            return np.arange(len(self._xyxy))
        cells = ((column, row) for column in range(left, right) for row in range(top, bottom))
        found = [self._cells[cell] for cell in cells if cell in self._cells]
        return np.unique(np.concatenate([*found, np.array(self._everywhere, np.intp)]))
