"""What a result shows of itself: the detections above their class's threshold, one label an object."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest

from gfl.errors import InputError
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


@pytest.mark.parametrize("value", [50, -0.1, float("nan"), "0.5", True])
def test_scores_and_overlaps_are_from_0_to_1(value: float) -> None:
    result = result_of([DOG], [0.5], [0], [0.55])
    for ask in (result.confident, result.distinct, result.draw):
        with pytest.raises(InputError, match=r"got the (score|iou) .* expected a number from 0 to 1"):
            ask(value)


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


# ---- in a program ----


def three() -> Result:
    return result_of([DOG, INSIDE, DOG], [0.5, 0.45, 0.3], [0, 1, 2], [0.55, 0.45, 0.2])


def test_results_are_equal_by_their_content_and_not_by_their_picture() -> None:
    assert three() == three()
    assert three() == replace(three(), image=None)
    assert three() != replace(three(), source="cat.jpg")
    assert three() != replace(three(), scores=np.array([0.5, 0.45, 0.31], np.float32))
    assert three() != three().confident()
    assert three() != "a result"
    with pytest.raises(TypeError, match="unhashable"):
        hash(three())


def test_the_repr_says_what_was_found_in_a_line() -> None:
    assert repr(three()) == "<Result dog.jpg 100x100: 3 detections: dog 0.50, cat 0.45, horse 0.30>"
    assert repr(result_of([], [], [], [])) == "<Result dog.jpg 100x100: 0 detections>"
    many = result_of([DOG] * 9, [0.5] * 9, [0] * 9, [0.1] * 9)
    assert repr(many).endswith("9 detections: dog 0.50, dog 0.50, dog 0.50, dog 0.50, dog 0.50, ...>")


def test_the_repr_of_a_hostile_name_is_one_line() -> None:
    assert repr(replace(three(), source="a\n\x1b[2J.jpg")).startswith("<Result a\\n\\x1b[2J.jpg 100x100")
    assert "\\x1b[2Jdog 0.50" in repr(replace(three(), names=("\x1b[2Jdog", "cat", "horse")))


def test_a_result_is_taken_apart_by_place_slice_and_mask() -> None:
    result = three()
    assert result[1].names == ("cat",)
    assert result[-1].names == ("horse",)
    assert result[:2].names == ("dog", "cat")
    assert result[result.scores > 0.4].names == ("dog", "cat")
    assert result[[2, 0]].names == ("horse", "dog")
    assert [each.names[0] for each in result] == ["dog", "cat", "horse"]
    with pytest.raises(IndexError):
        result[3]


def test_a_notebook_shows_the_picture_or_else_the_text() -> None:
    shown = result_of([DOG], [0.5], [0], [0.1])
    data = shown._repr_png_()
    assert data is not None
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), shown.draw())
    assert replace(shown, image=None)._repr_png_() is None


@pytest.mark.parametrize("package", ["stand-in", "installed"])
@pytest.mark.parametrize("count", [0, 3])
def test_supervision_gets_every_column(package: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "stand-in":
        module = types.ModuleType("supervision")
        module.Detections = types.SimpleNamespace  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "supervision", module)
    elif importlib.util.find_spec("supervision") is None:
        pytest.skip("supervision is not installed: pip install supervision")
    result = three()[:count]
    found = result.to_supervision()
    np.testing.assert_array_equal(found.xyxy, result.boxes_xyxy)  # type: ignore[attr-defined]  # of the package
    np.testing.assert_array_equal(found.confidence, result.scores)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.class_id, result.labels)  # type: ignore[attr-defined]
    assert list(found.data["class_name"]) == list(result.names)  # type: ignore[attr-defined]


def test_supervision_that_is_missing_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        three().to_supervision()
