"""What is wrong with each detection, and which objects were missed: the kinds of error of TIDE (Bolya et al. 2020).

At IoU 0.5, and one picture after the other: so a person can be shown the very boxes. What a kind of error costs in AP
is counted by hotcoco (gfl/report/breakdown.py), over all detections.
Letters: D detections of a picture, best first; N its true boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.coco_columns import DetectionColumns
from gfl.data.coco_json import Floats, GroundTruth, Ints, Mask

LEAST_IOU = 0.5  # of a detection and the object that it finds
NOTHING_IOU = 0.1  # below it a detection has nothing to do with an object

# What a detection can be. A crowd's is neither right nor wrong, as in COCO's counting.
RIGHT, CLASS, LOCATION, BOTH, DUPLICATE, BACKGROUND, CROWD = range(7)
MISSED = 7  # of an object
KIND_NAMES = (
    "right",
    "wrong class",
    "wrong place",
    "wrong class and place",
    "duplicate",
    "background",
    "crowd",
    "missed",
)
ERRORS = (CLASS, LOCATION, BOTH, DUPLICATE, BACKGROUND, MISSED)


class Judged(NamedTuple):
    """One picture's detections and objects, told apart."""

    image_id: int
    rows: Ints  # (D,) of the detections among all
    kinds: Ints  # (D,)
    objects: Ints  # (D,) row among all true boxes of the object that a right detection found, else -1
    missed: Ints  # rows of the objects that none found

    def count(self, kind: int) -> int:
        """Detections of a kind, or the objects that were missed."""
        return len(self.missed) if kind == MISSED else int((self.kinds == kind).sum())


def judge(truth: GroundTruth, found: DetectionColumns) -> Iterator[Judged]:
    """Each picture of the truth in order of its id. Detections on pictures that it lacks are passed over."""
    order = np.lexsort((-found.scores, found.image_ids))
    true_order = np.argsort(truth.image_id, kind="stable")
    ids = np.unique(truth.image_ids)
    starts, ends = (np.searchsorted(found.image_ids[order], ids, side) for side in ("left", "right"))
    true_starts, true_ends = (np.searchsorted(truth.image_id[true_order], ids, side) for side in ("left", "right"))
    for image_id, start, end, true_start, true_end in zip(ids, starts, ends, true_starts, true_ends, strict=True):
        rows, true_rows = order[start:end], true_order[true_start:true_end]
        yield _judge_picture(int(image_id), truth, found, rows, true_rows)


def _judge_picture(image_id: int, truth: GroundTruth, found: DetectionColumns, rows: Ints, true_rows: Ints) -> Judged:
    is_crowd_N = truth.crowd[true_rows]
    crowd_rows, object_rows = true_rows[is_crowd_N], true_rows[~is_crowd_N]
    boxes_D4 = found.boxes_xywh[rows]
    same_DN = found.category_ids[rows][:, None] == truth.category_id[object_rows]
    iou_DN = iou_xywh(boxes_D4, truth.boxes_xywh[object_rows])
    taken_D = match(np.where(same_DN, iou_DN, 0.0))
    kinds_D = _kinds(iou_DN, same_DN, taken_D)
    if len(crowd_rows):
        same_crowd = found.category_ids[rows][:, None] == truth.category_id[crowd_rows]
        inside = covered(boxes_D4, truth.boxes_xywh[crowd_rows]) >= LEAST_IOU
        kinds_D[(kinds_D != RIGHT) & (same_crowd & inside).any(axis=1)] = CROWD
    objects_D = np.where(taken_D >= 0, object_rows[taken_D] if len(object_rows) else -1, -1)
    missed = np.delete(object_rows, taken_D[taken_D >= 0])
    return Judged(image_id, rows, kinds_D, objects_D, missed)


def match(iou_DN: Floats) -> Ints:
    """(D,) the object of each detection, -1 without one: COCO's greedy matching, the best detection first.

    iou_DN: 0 where the classes differ.
    """
    taken_D, free_N = np.full(len(iou_DN), -1, np.int64), np.ones(iou_DN.shape[1], bool)
    for row in np.flatnonzero((iou_DN >= LEAST_IOU).any(axis=1)).tolist():
        candidates = np.where(free_N, iou_DN[row], 0.0)
        best = len(candidates) - 1 - int(candidates[::-1].argmax())  # of equals the last, as COCO has it
        if candidates[best] >= LEAST_IOU:
            taken_D[row], free_N[best] = best, False
    return taken_D


def _kinds(iou_DN: Floats, same_DN: Mask, taken_D: Ints) -> Ints:
    """TIDE's order: a box of the right class and a wrong place, then a wrong class, a duplicate, background, both."""
    if not iou_DN.shape[1]:
        return np.full(len(iou_DN), BACKGROUND, np.int64)
    own, other = np.where(same_DN, iou_DN, 0.0).max(axis=1), np.where(same_DN, 0.0, iou_DN).max(axis=1)
    return np.select(
        [
            taken_D >= 0,
            (own >= NOTHING_IOU) & (own < LEAST_IOU),
            other >= LEAST_IOU,
            own >= LEAST_IOU,
            np.maximum(own, other) < NOTHING_IOU,
        ],
        [RIGHT, LOCATION, CLASS, DUPLICATE, BACKGROUND],
        default=BOTH,
    )


def iou_xywh(one_D4: Floats, other_N4: Floats) -> Floats:
    """(D,N) intersection over union of boxes x, y, width, height."""
    shared_DN, area_D, area_N = _areas(one_D4, other_N4)
    return shared_DN / np.maximum(area_D[:, None] + area_N - shared_DN, 1e-9)


def covered(one_D4: Floats, other_N4: Floats) -> Floats:
    """(D,N) share of the first boxes that lies inside the others, as COCO measures it for crowds."""
    shared_DN, area_D, _ = _areas(one_D4, other_N4)
    return shared_DN / np.maximum(area_D[:, None], 1e-9)


def _areas(one_D4: Floats, other_N4: Floats) -> tuple[Floats, Floats, Floats]:
    """Shared areas (D,N) and the areas of each."""
    starts = np.maximum(one_D4[:, None, :2], other_N4[None, :, :2])
    ends = np.minimum((one_D4[:, :2] + one_D4[:, 2:])[:, None], (other_N4[:, :2] + other_N4[:, 2:])[None])
    shared: NDArray[np.float64] = (ends - starts).clip(0).prod(axis=2)
    return shared, one_D4[:, 2:].prod(axis=1), other_N4[:, 2:].prod(axis=1)
