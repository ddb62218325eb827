"""What is odd about the boxes and classes of a data set, judged by its boxes as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.check.findings import Finding, finding
from gfl.data.coco import CocoData
from gfl.data.coco_json import PIECE, GroundTruth, let_go, pieces
from gfl.data.lazy import Lazy
from gfl.data.pictures import ids_of, names_of, sizes_of
from gfl.data.source.box_form import MENDS, BoxForms

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

ROUNDING_PX = 1.0  # a box may reach so far over its picture's border by rounding
MOST_COUNTED = 100  # detections of a picture that COCO's evaluation counts


class Known(NamedTuple):
    """What is known of the pictures, P, that boxes are of."""

    ids: Ints  # (P,) in their order
    sizes_hw: Ints  # (P,2) px; 0 where it is not known
    names: Sequence[str]

    def places(self, image_ids: Ints) -> Ints:
        """(N,) ids -> (N,) the pictures' places, of several of one id the last; -1 where there is none."""
        if not len(self.ids):
            return np.full(len(image_ids), -1)
        places = np.searchsorted(self.ids, image_ids, side="right") - 1
        return np.where(self.ids[places] == image_ids, places, -1)  # place -1 is the last, which has another id

    def sizes_of(self, image_ids: Ints) -> Ints:
        """(N,) ids -> (N,2) px; 0 where it is not known."""
        places = self.places(image_ids)
        sizes_hw = np.zeros((len(places), 2), np.int64)
        sizes_hw[places >= 0] = self.sizes_hw[places[places >= 0]]
        return sizes_hw

    def name(self, image_id: int) -> str:
        """The name of a picture, or else its id."""
        place = int(self.places(np.array([image_id]))[0])
        return str(image_id) if place < 0 else self.names[place]


class PictureNames(Lazy[str]):
    """Pictures by name, some with the number of their boxes."""

    def __init__(self, known: Known, image_ids: Ints, boxes: Ints | None = None) -> None:
        self._known, self._ids, self._boxes = known, image_ids, boxes

    def __len__(self) -> int:
        return len(self._ids)

    def make(self, at: int) -> str:
        name = self._known.name(int(self._ids[at]))
        return name if self._boxes is None else f"{name}: {self._boxes[at]} boxes"


class BoxNames(Lazy[str]):
    """Boxes by their pictures' names and their numbers."""

    def __init__(self, truth: GroundTruth, known: Known, rows: Ints) -> None:
        self._truth, self._known, self._rows = truth, known, rows

    def __len__(self) -> int:
        return len(self._rows)

    def make(self, at: int) -> str:
        row = int(self._rows[at])
        box = ", ".join(f"{value:g}" for value in self._truth.boxes_xywh[row])
        return f"{self._known.name(int(self._truth.image_id[row]))}: [{box}]"


def check_boxes(data: CocoData) -> list[Finding]:
    """Findings about the boxes of a data set, against the sizes that its pictures have."""
    pictures = data.pictures
    return check_truth(data.truth, Known(ids_of(pictures), sizes_of(pictures), names_of(pictures)))


def check_truth(truth: GroundTruth, known: Known) -> list[Finding]:
    """Findings about the boxes of a file."""
    forms, all_known = BoxForms(), True
    rows: dict[str, list[Ints]] = {"outside": [], "clipped": [], "tiny": [], "shares": []}
    for piece in pieces(len(truth.image_id), truth.boxes_xywh, truth.image_id):
        boxes, sizes_hw = truth.boxes_xywh[piece], known.sizes_of(truth.image_id[piece])
        x1, y1, width, height = boxes.T
        right, bottom = x1 + width, y1 + height
        limit_h, limit_w = np.where(sizes_hw > 0, sizes_hw.astype(np.float64), np.inf).T
        outside = (right <= 0) | (bottom <= 0) | (x1 >= limit_w) | (y1 >= limit_h)
        over = np.maximum.reduce([-x1, -y1, right - limit_w, bottom - limit_h])
        small = (width < 1) | (height < 1)
        shares = (np.abs(boxes) <= 1).all(axis=1) & (boxes != np.round(boxes)).any(axis=1)
        masks = {
            "outside": outside & ~small,
            "clipped": (over > ROUNDING_PX) & ~outside & ~small,
            "tiny": small & ~shares,
            "shares": shares,
        }
        for name, mask in masks.items():
            rows[name].append(np.flatnonzero(mask) + piece.start)
        all_known = all_known and bool((sizes_hw > 0).all())
        forms.add(boxes, sizes_hw)

    def examples(some: Sequence[Ints]) -> BoxNames:
        return BoxNames(truth, known, np.concatenate([*some, np.empty(0, np.int64)]))

    found: list[Finding] = []
    form = forms.form if all_known else "xywh"
    if form != "xywh":
        looks, mend = MENDS[form]
        found.append(Finding(f"boxes_{form}", len(truth.image_id), f"the boxes look like {looks}: {mend}"))
    outside_names, clipped_names = examples(rows["outside"]), examples(rows["clipped"])
    found += finding("boxes_outside", "boxes wholly outside their pictures", "mend or remove them", outside_names)
    found += finding("boxes_clipped", "boxes over the border by more than a pixel", "clipped to it", clipped_names)
    tiny = examples(rows["tiny"])
    found += finding("boxes_without_area", "boxes less than a pixel wide or high", "left out", tiny)
    if form != "normalised":
        what, becomes = "boxes within 0..1, as if they were shares of the picture", "left out; write them in pixels"
        found += finding("boxes_normalised", what, becomes, examples(rows["shares"]))
    doubled = examples([_doubled(truth)])
    found += finding("boxes_doubled", "boxes that repeat one of their picture and class", "both are kept", doubled)
    return found + _check_classes(truth) + _check_counts(truth, known)


def _doubled(truth: GroundTruth) -> Ints:
    """The rows of boxes that repeat one before them; looked for in some pictures at a time."""
    ids, found, start = truth.image_id, [np.empty(0, np.int64)], 0
    order = None if (ids[1:] >= ids[:-1]).all() else np.argsort(ids, kind="stable")
    while start < len(ids):
        last = min(start + PIECE, len(ids)) - 1
        end = int(np.searchsorted(ids, ids[last if order is None else order[last]], side="right", sorter=order))
        rows = np.arange(start, end) if order is None else order[start:end]
        columns = (ids[rows], truth.category_id[rows], np.round(truth.boxes_xywh[rows] * 100))
        keys = np.column_stack(columns).astype(np.int64)
        repeated = np.ones(len(keys), np.bool_)
        each = np.ascontiguousarray(keys).view([("", np.int64)] * keys.shape[1]).ravel()  # one value a row: sorts fast
        repeated[np.unique(each, return_index=True)[1]] = False
        found.append(rows[repeated])
        start = end
        let_go(ids, truth.category_id, truth.boxes_xywh)
    return np.sort(np.concatenate(found))


def _check_classes(truth: GroundTruth) -> list[Finding]:
    used, crowded = (_different(truth.category_id, mask) for mask in (~truth.crowd, truth.crowd))
    without = [name for key, name in truth.class_names.items() if key not in used | crowded]
    found = finding("classes_without_boxes", "classes without a box", "they cannot be learnt", without)
    only = [name for key, name in truth.class_names.items() if key in crowded - used]
    becomes = "not learnt; some tools mark every mask so: set iscrowd to 0 where a box is one object"
    found += finding("classes_of_crowds", "classes with crowd boxes (iscrowd 1) only", becomes, only)
    if truth.crowd.any():
        text = f"crowd boxes, iscrowd 1 ({truth.crowd.sum():,}): not learnt, and detections in them are not counted"
        found.append(Finding("crowds", int(truth.crowd.sum()), text, is_note=True))
    if truth.root_note:
        found.append(Finding("root_category", 1, truth.root_note, is_note=True))
    return found


def _different(ids: Ints, mask: Mask) -> set[int]:
    """The different ids among the rows of a mask."""
    found: set[int] = set()
    for rows in pieces(len(ids), ids):
        found.update(np.unique(ids[rows][mask[rows]]).tolist())
    return found


def _check_counts(truth: GroundTruth, known: Known) -> list[Finding]:
    every_piece = partial(pieces, len(truth.image_id), truth.image_id)
    ids = np.unique(np.concatenate([truth.image_ids, *(np.unique(truth.image_id[rows]) for rows in every_piece())]))
    counts = np.zeros(len(ids), np.int64)
    for rows in every_piece():
        places = np.searchsorted(ids, truth.image_id[rows][~truth.crowd[rows]])
        counts += np.bincount(places, minlength=len(ids))
    empty = PictureNames(known, np.setdiff1d(truth.image_ids, ids[counts > 0]))
    becomes = "not trained on unless KEEP_EMPTY = True, and counted in evaluation"
    found = finding("pictures_without_boxes", "pictures without a box", becomes, empty, is_note=True)
    many = counts > MOST_COUNTED
    what = f"pictures of more than the {MOST_COUNTED} objects that an evaluation counts"
    becomes = "raise PredictConfig.max_detections, and evaluate with --max_detections"
    crowded = PictureNames(known, ids[many], counts[many])
    return found + finding("pictures_of_many_boxes", what, becomes, crowded)
