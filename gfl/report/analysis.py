"""Everything that a report says of detections and truth, worked out once: numbers, kinds of error, edges, classes.

Letters: D detections, K classes in the order of their ids.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import SAME_OBJECT_IOU, distinct_boxes
from gfl.data.coco_columns import CocoResults, DetectionColumns, checked_columns
from gfl.data.coco_json import GroundTruth, Ints
from gfl.report.best_f1 import BestF1, score_thresholds
from gfl.report.breakdown import Breakdown, break_down
from gfl.report.coco_eval import COCO_LIMIT, Metrics, distinct_names, matching_of, mean_measured, metrics_of
from gfl.report.coco_matching import Curves, Matching, choose_backend, curves
from gfl.report.edges import EdgeSummary, corners_xyxy, right_edges, summarise
from gfl.report.kinds import CROWD, RIGHT, Judged, judge


class ClassRow(NamedTuple):
    """One class: shares of 1, None where nothing was there to be measured."""

    name: str
    objects: int
    shown: int  # detections that a person is shown
    AP: float | None
    AP50: float | None
    AP75: float | None
    AR: float | None  # of the most detections that count
    best: BestF1 | None


class Analysis(NamedTuple):
    """What is known of the detections on a data set."""

    truth: GroundTruth
    shown: DetectionColumns  # what a person is shown: at least its class's score of the highest F1, one box an object
    matching: Matching  # all of them beside the truth, as the backends take it
    metrics: Metrics
    curves: Curves
    breakdown: Breakdown | None  # None where hotcoco is not installed
    judged: tuple[Judged, ...]  # of the shown ones, a picture each
    edges: EdgeSummary | None  # of right ones among those shown; None where they are too few, or without spread
    classes: tuple[ClassRow, ...]

    @property
    def objects(self) -> int:
        """True boxes that are no crowds."""
        return int((~self.truth.crowd).sum())

    @property
    def tight_ap(self) -> float | None:
        """AP at IoU 0.90: of boxes that fit closely."""
        return mean_measured(self.curves.precision[8, :, :, 0, -1])

    @property
    def right(self) -> int:
        """Shown detections that find an object."""
        return sum(each.count(RIGHT) for each in self.judged)

    @property
    def counted(self) -> int:
        """Shown detections that are right or wrong: without those of crowds."""
        return len(self.shown.scores) - sum(each.count(CROWD) for each in self.judged)


def analyse(truth: GroundTruth, detections: CocoResults, *, max_detections: int = COCO_LIMIT) -> Analysis:
    """Errors as of `evaluate_detections`."""
    started = time.perf_counter()
    found = checked_columns(detections)
    matching = matching_of(truth, found, max_detections=max_detections)
    backend = choose_backend("auto")
    measured = curves(matching, backend)
    metrics = metrics_of(measured, truth, matching, started)
    thresholds = score_thresholds(metrics.best_f1.values())
    kept = _kept(truth, found, thresholds)
    shown = found.taken(kept)
    judged = tuple(judge(truth, shown))
    edges = right_edges(truth, shown, judged)
    return Analysis(
        truth,
        shown,
        matching,
        metrics,
        measured,
        # The detections of `matching` are those of `found`, in their order: every picture of the truth was chosen.
        break_down(matching, kept) if backend == "hotcoco" else None,
        judged,
        None if edges is None else summarise(edges),
        _class_rows(truth, shown, metrics, measured),
    )


def _kept(truth: GroundTruth, found: DetectionColumns, thresholds: tuple[float, ...]) -> NDArray[np.bool_]:
    """(D,) what a person is shown, as infer draws it: the score that its class needs, and one box an object."""
    needed = np.array(thresholds)[places_of(truth, found.category_ids)]
    confident = np.flatnonzero(found.scores >= needed)
    best_first = confident[np.lexsort((-found.scores[confident], found.image_ids[confident]))]
    kept = np.zeros(len(found.scores), np.bool_)
    starts = np.flatnonzero(np.diff(found.image_ids[best_first])) + 1
    for rows in np.split(best_first, starts):
        kept[rows] = distinct_boxes(corners_xyxy(found.boxes_xywh[rows]), SAME_OBJECT_IOU)
    return kept


def places_of(truth: GroundTruth, category_ids: Ints) -> Ints:
    """Category ids -> the places of their classes among those of the annotations."""
    ids = np.array(list(truth.class_names), dtype=np.int64)
    order = np.argsort(ids)
    return np.asarray(order[np.searchsorted(ids[order], category_ids)])


def _class_rows(
    truth: GroundTruth, shown: DetectionColumns, metrics: Metrics, measured: Curves
) -> tuple[ClassRow, ...]:
    names = distinct_names(truth.class_names)
    rows = []
    for index, (name, category_id) in enumerate(zip(names, truth.class_names, strict=True)):
        precision = measured.precision[:, :, index, 0, -1]
        rows.append(
            ClassRow(
                name=name,
                objects=int(((truth.category_id == category_id) & ~truth.crowd).sum()),
                shown=int((shown.category_ids == category_id).sum()),
                AP=metrics.per_class[name],
                AP50=mean_measured(precision[0]),
                AP75=mean_measured(precision[5]),
                AR=mean_measured(measured.recall[:, index, 0, -1]),
                best=metrics.best_f1[name],
            )
        )
    return tuple(rows)
