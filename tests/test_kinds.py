"""Kinds of error: each on boxes made for it, and against hotcoco's own matching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gfl.data.coco_columns import DetectionColumns
from gfl.data.coco_json import GroundTruth
from gfl.report.coco_eval import matching_of
from gfl.report.coco_matching import hotcoco_evaluation
from gfl.report.kinds import (
    BACKGROUND,
    BOTH,
    CLASS,
    CROWD,
    DUPLICATE,
    LOCATION,
    MISSED,
    RIGHT,
    covered,
    iou_xywh,
    judge,
)

OBJECT = [10.0, 10.0, 20.0, 20.0]
FAR = [60.0, 60.0, 20.0, 20.0]


def truth_of(boxes: list[list[float]], classes: list[int], crowd: list[bool] | None = None) -> GroundTruth:
    """One picture, of id 5, of two classes, of ids 1 and 2."""
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return GroundTruth(
        Path("a.json"),
        np.array([5]),
        {1: "cat", 2: "dog"},
        np.full(len(xywh), 5),
        np.array(classes, np.int64),
        xywh,
        xywh[:, 2:].prod(axis=1),
        np.array(crowd or [False] * len(xywh), bool),
    )


def found_of(boxes: list[list[float]], classes: list[int], scores: list[float] | None = None) -> DetectionColumns:
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    shown = scores or np.linspace(0.9, 0.1, len(xywh)).tolist()
    return DetectionColumns(np.full(len(xywh), 5), np.array(classes, np.int64), xywh, np.array(shown, np.float64))


@pytest.mark.parametrize(
    ("box", "class_", "kind"),
    [
        ([11, 10, 20, 20], 1, RIGHT),
        ([10, 10, 20, 20], 2, CLASS),
        ([20, 15, 20, 20], 1, LOCATION),
        ([20, 15, 20, 20], 2, BOTH),
        ([60, 60, 20, 20], 1, BACKGROUND),
    ],
)
def test_a_detection_is_of_its_kind(box: list[float], class_: int, kind: int) -> None:
    (judged,) = judge(truth_of([OBJECT], [1]), found_of([box], [class_]))
    assert judged.kinds.tolist() == [kind]
    assert judged.missed.tolist() == ([] if kind == RIGHT else [0])
    assert judged.objects.tolist() == ([0] if kind == RIGHT else [-1])
    assert judged.count(MISSED) == (kind != RIGHT)


def test_the_better_of_two_detections_finds_the_object_and_the_other_is_a_duplicate() -> None:
    (judged,) = judge(truth_of([OBJECT], [1]), found_of([OBJECT, [11, 10, 20, 20]], [1, 1], [0.3, 0.8]))
    assert judged.rows.tolist() == [1, 0]  # best first
    assert judged.kinds.tolist() == [RIGHT, DUPLICATE]


def test_what_lies_in_a_crowd_of_its_class_is_neither_right_nor_wrong() -> None:
    truth = truth_of([OBJECT, [50, 50, 40, 40]], [1, 1], [False, True])
    (judged,) = judge(truth, found_of([FAR, FAR], [1, 2]))
    assert judged.kinds.tolist() == [CROWD, BACKGROUND]
    assert judged.missed.tolist() == [0]  # a crowd is not missed


def test_pictures_without_objects_or_detections_are_judged_too() -> None:
    (nothing_found,) = judge(truth_of([OBJECT], [1]), found_of([], []))
    (nothing_there,) = judge(truth_of([], []), found_of([FAR], [1]))
    assert (nothing_found.kinds.tolist(), nothing_found.missed.tolist()) == ([], [0])
    assert (nothing_there.kinds.tolist(), nothing_there.missed.tolist()) == ([BACKGROUND], [])


def test_detections_on_pictures_that_the_truth_lacks_are_passed_over() -> None:
    found = found_of([OBJECT], [1])
    (judged,) = judge(truth_of([OBJECT], [1]), found._replace(image_ids=np.array([6])))
    assert judged.rows.tolist() == []


def test_overlaps_are_those_of_a_calculation_by_hand() -> None:
    one, other = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 10, 10], [20, 20, 5, 5], [0, 0, 20, 20]])
    assert iou_xywh(one, other)[0].tolist() == pytest.approx([50 / 150, 0, 100 / 400])
    assert covered(one, other)[0].tolist() == pytest.approx([0.5, 0, 1])


def test_the_objects_found_are_those_of_hotcoco() -> None:
    pytest.importorskip("hotcoco")
    rng = np.random.default_rng(3)
    boxes = 60 * rng.random((120, 4)) + [0, 0, 10, 10]
    images = rng.integers(1, 9, 120)
    truth = truth_of(boxes.tolist(), rng.integers(1, 3, 120).tolist(), (rng.random(120) < 0.1).tolist())
    truth = truth.__class__(**{**vars(truth), "image_ids": np.arange(1, 9), "image_id": images})
    found = found_of(
        (boxes + rng.normal(0, 4, (120, 4))).tolist(), truth.category_id.tolist(), rng.random(120).tolist()
    )
    found = found._replace(image_ids=images)
    said = hotcoco_evaluation(matching_of(truth, found)).image_diagnostics()
    right = sum(each.count(RIGHT) for each in judge(truth, found))
    missed = sum(each.count(MISSED) for each in judge(truth, found))
    matched = [key for key, status in said["gt_status"].items() if status == "matched"]
    assert right == len(matched) > 40
    assert missed == (~truth.crowd).sum() - len(matched)
