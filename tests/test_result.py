"""What a result shows of itself: the detections above their class's threshold, one label an object."""

from __future__ import annotations

import numpy as np

from gfl.runtime.result import Result

NAMES = ("dog", "cat", "horse")


def result_of(boxes: list[list[float]], scores: list[float], labels: list[int], thresholds: list[float]) -> Result:
    return Result(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int32),
        names=tuple(NAMES[label] for label in labels),
        category_ids=tuple(10 + label for label in labels),
        edge_std=np.arange(4 * len(scores), dtype=np.float32).reshape(-1, 4),
        score_thresholds=np.array(thresholds, np.float32),
        complete=True,
        size_hw=(100, 100),
        source="dog.jpg",
        image=np.zeros((100, 100, 3), np.uint8),
    )


DOG, SAME_PLACE, INSIDE = [10.0, 10.0, 60.0, 60.0], [12.0, 10.0, 60.0, 60.0], [20.0, 20.0, 40.0, 40.0]


def test_confident_takes_the_threshold_of_each_class() -> None:
    result = result_of([DOG, INSIDE, DOG], [0.5, 0.45, 0.3], [0, 1, 2], [0.55, 0.45, 0.2])
    assert result.confident().names == ("cat", "horse")
    assert result.confident(0.4).names == ("dog", "cat")


def test_what_is_selected_keeps_its_columns_together() -> None:
    chosen = result_of([DOG, INSIDE], [0.5, 0.4], [0, 1], [0.3, 0.3]).select(np.array([False, True]))
    assert chosen.names == ("cat",)
    assert chosen.category_ids == (11,)
    assert chosen.boxes_xyxy.tolist() == [INSIDE]
    assert chosen.edge_std.tolist() == [[4.0, 5.0, 6.0, 7.0]]
    assert chosen.source == "dog.jpg"


def test_one_object_wears_one_label() -> None:
    result = result_of([DOG, SAME_PLACE, INSIDE], [0.6, 0.5, 0.4], [0, 1, 2], [0.1, 0.1, 0.1])
    assert result.distinct().names == ("dog", "horse")  # the small one inside is another object
    assert result.distinct(iou=0.99).names == ("dog", "cat", "horse")


def test_a_detection_that_is_left_out_suppresses_none() -> None:
    row = [[x, 0.0, x + 10.0, 10.0] for x in (0.0, 3.0, 6.0)]  # neighbours overlap by 0.54, the outer ones by 0.25
    assert result_of(row, [0.6, 0.5, 0.4], [0, 1, 2], [0.1] * 3).distinct().names == ("dog", "horse")


def test_what_is_drawn_is_confident_and_distinct() -> None:
    faint = result_of([DOG], [0.3], [0], [0.4])
    assert not faint.draw().any()
    assert faint.draw(0.2).any()
    one, two = (result_of([DOG] * n, [0.6, 0.5][:n], [0, 1][:n], [0.1] * n) for n in (1, 2))
    assert (two.draw() == one.draw()).all()


def test_an_empty_result_has_nothing_to_show() -> None:
    empty = result_of([], [], [], [])
    assert len(empty.confident().distinct()) == 0
