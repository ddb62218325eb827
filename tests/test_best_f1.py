"""The best-F1 threshold of a class, from COCO's matching, and its way into a checkpoint and an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gfl.data.coco_json import CocoDetection, GroundTruth
from gfl.errors import InputError
from gfl.report.best_f1 import DEFAULT_SCORE, BestF1, best_f1, read_thresholds, score_thresholds, thresholds_by_label
from gfl.report.coco_eval import evaluate_detections

BACKENDS = ("pycocotools", "hotcoco")


def truth_of(counts: dict[int, int]) -> GroundTruth:
    """A picture with so many objects a class, 10 px boxes far apart in a row."""
    categories = [category_id for category_id, count in counts.items() for _ in range(count)]
    boxes = np.array([[30.0 * i, 0.0, 10.0, 10.0] for i in range(len(categories))]).reshape(-1, 4)
    return GroundTruth(
        path=Path("val.json"),
        image_ids=np.array([1], np.int64),
        class_names={category_id: f"class {category_id}" for category_id in counts},
        image_id=np.ones(len(categories), np.int64),
        category_id=np.array(categories, np.int64),
        boxes_xywh=boxes,
        areas=np.full(len(categories), 100.0),
        crowd=np.zeros(len(categories), np.bool_),
    )


def detection(truth: GroundTruth, index: int, score: float, category_id: int = 1, shift: float = 0.0) -> CocoDetection:
    x, y, width, height = truth.boxes_xywh[index].tolist()
    return {"image_id": 1, "category_id": category_id, "bbox": [x + shift, y, width, height], "score": score}


def by_hand(truth: GroundTruth, rows: list[tuple[float, bool]]) -> tuple[float, float]:
    """The best F1 and its score, by trying every score: rows of (score, whether it is a true detection)."""
    objects = len(truth.image_id)
    candidates = []
    for threshold, _ in rows:
        kept = [true for score, true in rows if score >= threshold]
        candidates.append((2 * sum(kept) / (len(kept) + objects), threshold))
    return max(candidates)


@pytest.mark.parametrize("objects", [1, 12, 67, 92, 100])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_threshold_is_that_of_the_highest_f1(backend: str, objects: int) -> None:
    truth = truth_of({1: objects})
    rng = np.random.default_rng(3)
    rows, detections = [], []
    for index in range(objects):
        score = round(float(rng.uniform(0.2, 0.9)), 4)
        rows.append((score, True))
        detections.append(detection(truth, index, score))
    for index in range(30):
        score = round(float(rng.uniform(0.05, 0.7)), 4)
        rows.append((score, False))
        detections.append(detection(truth, index % objects, score, shift=15.0))
    best = evaluate_detections(truth, detections, backend=backend, max_detections=200).best_f1["class 1"]
    expected_f1, expected_score = by_hand(truth, rows)
    assert best is not None
    assert best.f1 == pytest.approx(expected_f1, abs=1e-9)
    assert expected_score - 1e-3 <= best.score <= expected_score


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_without_objects_or_without_true_detections_has_no_threshold(backend: str) -> None:
    truth = truth_of({1: 2, 2: 0, 3: 1})
    detections = [detection(truth, 0, 0.6), detection(truth, 1, 0.5), detection(truth, 2, 0.9, 3, shift=15.0)]
    measured = evaluate_detections(truth, detections, backend=backend).best_f1
    assert measured["class 1"] is not None
    assert measured["class 2"] is None
    assert measured["class 3"] is None
    assert evaluate_detections(truth, [], backend=backend).best_f1["class 1"] is None


def test_perfect_detections_are_all_kept() -> None:
    truth = truth_of({1: 3})
    best = evaluate_detections(truth, [detection(truth, i, s) for i, s in enumerate((0.61, 0.43, 0.5))]).best_f1
    assert best["class 1"] == BestF1(0.43, pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0))


def test_a_threshold_never_lies_above_the_detection_that_it_keeps() -> None:
    precision = np.ones(101)
    for score in np.random.default_rng(0).uniform(0.05, 1.0, 200):
        best = best_f1(precision, np.full(101, score), 100)
        assert best is not None
        assert score - 1e-3 < best.score <= score + 1e-9


def test_classes_that_were_not_measured_take_the_median_of_the_others() -> None:
    assert score_thresholds([BestF1(0.5, 1, 1, 1), None, BestF1(0.3, 1, 1, 1)]) == (0.5, 0.4, 0.3)
    assert score_thresholds([None, None]) == (DEFAULT_SCORE, DEFAULT_SCORE)


def test_thresholds_follow_the_labels_and_not_the_order_of_the_file() -> None:
    measured = [BestF1(0.5, 1, 1, 1), BestF1(0.3, 1, 1, 1), None]
    assert thresholds_by_label(measured, [3, 7, 9], [7, 3]) == (0.3, 0.5)


def test_metrics_json_has_them() -> None:
    truth = truth_of({1: 1, 2: 0})
    content = evaluate_detections(truth, [detection(truth, 0, 0.6)]).as_dict()
    assert content["best_f1"] == {
        "class 1": {"score": 0.6, "f1": pytest.approx(1.0), "precision": pytest.approx(1.0), "recall": 1.0},
        "class 2": None,
    }


def test_thresholds_are_read_back_from_metrics_json_by_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"best_f1": {"dog": {"score": 0.5, "f1": 1, "precision": 1, "recall": 1}, "cat": null}}')
    assert read_thresholds(path, ["cat", "Dog"]) == (0.5, 0.5)
    with pytest.raises(InputError, match="has no score of horse, expected"):
        read_thresholds(path, ["horse"])
    for text in ("[]", "{", '{"best_f1": {"dog": 3}}', '{"AP": 0.5}'):
        path.write_text(text)
        with pytest.raises(InputError, match="cannot be read"):
            read_thresholds(path, ["dog"])
