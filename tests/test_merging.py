"""Boxes of several views or models, merged: soft-NMS on the authors' goldens, the other methods on boxes by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import golden_cases
import numpy as np
import pytest

from gfl.errors import InputError
from gfl.runtime.description import Thresholds
from gfl.runtime.merging import METHODS, Found, Merge, merge_found, rule_of, select_boxes

Row = tuple[float, float, float, float]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case of the set that was asked for."""
    if "soft_case" in metafunc.fixturenames:
        folder = golden_cases.family_folder(metafunc.config.getoption("--goldens"))
        metafunc.parametrize("soft_case", golden_cases.names_before(folder, "soft_nms.npz", ".exact_keep"))


def found(boxes: Sequence[Row], scores: Sequence[float], labels: Sequence[int] | None = None) -> Found:
    """Boxes whose edges spread by a tenth of their score."""
    spread = np.repeat(np.array(scores, np.float32)[:, None] / 10, 4, axis=1)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Found(corners, np.array(scores, np.float32), np.array(labels or [0] * len(scores), np.int32), spread)


def test_soft_nms_keeps_what_the_authors_rule_keeps(soft_case: str, family_goldens: Path) -> None:
    arrays = golden_cases.read(family_goldens, "soft_nms.npz")
    case = {key.removeprefix(f"{soft_case}."): arrays[key] for key in arrays if key.startswith(f"{soft_case}.")}
    given = Found(case["boxes"], case["scores"], case["labels"], np.zeros_like(case["boxes"]))  # type: ignore[arg-type]
    rule = Merge(
        f"soft_{case['method']}",
        float(case["iou_threshold"]),
        float(case["sigma"]),
        float(case["min_score"]),
        bool(case["class_agnostic"]),
    )
    kept, scores = select_boxes(given, rule, len(given.scores))
    assert kept.tolist() == case["keep"].tolist()
    np.testing.assert_allclose(scores, case["exact_scores"], rtol=1e-12)
    np.testing.assert_allclose(scores, case["dets"][:, 4], rtol=1e-4)


# ---- by hand ----

BOX, NEAR, FAR = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 8.0), (50.0, 50.0, 60.0, 60.0)  # IoU of the first two 0.8


@pytest.mark.parametrize("method", METHODS)
def test_every_method_merges_one_object_and_leaves_the_other(method: str) -> None:
    merged = merge_found([found([BOX, FAR], [0.9, 0.6]), found([NEAR], [0.8])], Merge(method, 0.6, min_score=0.5), 100)
    assert merged.labels.tolist() == [0, 0]
    assert merged.boxes_xyxy[np.argmax(merged.boxes_xyxy[:, 0])].tolist() == list(FAR)
    assert all(np.diff(merged.scores) <= 0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_views_that_found_nothing(method: str) -> None:
    none = found([], [])
    assert len(merge_found([none, none], Merge(method), 100).scores) == 0
    assert len(merge_found([none, found([BOX], [0.9])], Merge(method), 100).scores) == 1


@pytest.mark.parametrize("method", METHODS)
def test_no_method_gives_more_than_asked_for(method: str) -> None:
    row = [(20.0 * i, 0.0, 20.0 * i + 10, 10.0) for i in range(9)]
    merged = merge_found([found(row, np.linspace(0.1, 0.9, 9).tolist())], Merge(method), 3)
    assert merged.scores == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize("method", METHODS)
def test_classes_stay_apart_unless_it_is_said_otherwise(method: str) -> None:
    given = [found([BOX, BOX], [0.9, 0.8], [0, 1])]
    assert merge_found(given, Merge(method, min_score=0.5), 100).labels.tolist() == [0, 1]
    assert merge_found(given, Merge(method, min_score=0.5, class_agnostic=True), 100).labels.tolist() == [0]


def test_views_and_models_of_a_class_agnostic_model_are_merged_over_all_classes() -> None:
    own = Thresholds(0.05, nms_iou=0.6, max_detections=9, candidates=9, rounds=1, class_agnostic=True)
    assert rule_of("nms", own) == Merge(iou=0.6, class_agnostic=True)
    assert rule_of("soft_linear", replace(own, class_agnostic=False)) == Merge("soft_linear", 0.3)


def test_nms_keeps_a_box_at_the_very_threshold() -> None:
    assert len(merge_found([found([BOX, NEAR], [0.9, 0.8])], Merge("nms", 0.8), 100).scores) == 2
    assert len(merge_found([found([BOX, NEAR], [0.9, 0.8])], Merge("nms", 0.79), 100).scores) == 1


def test_nms_takes_the_earlier_view_of_equal_scores() -> None:
    merged = merge_found([found([NEAR], [0.9]), found([BOX], [0.9])], Merge(), 100)
    assert merged.boxes_xyxy.tolist() == [list(NEAR)]


def test_voting_moves_a_box_and_its_spread_to_the_weighted_mean() -> None:
    merged = merge_found([found([BOX, FAR], [0.6, 0.1]), found([NEAR], [0.2])], Merge("voting"), 100)
    np.testing.assert_allclose(merged.boxes_xyxy[0], [0, 0, 10, 9.5])  # (0.6 * 10 + 0.2 * 8) / 0.8
    np.testing.assert_allclose(merged.edge_std[0], (0.6 * 0.06 + 0.2 * 0.02) / 0.8, rtol=1e-6)
    assert merged.scores == pytest.approx([0.6, 0.1])


def test_voting_hears_no_other_class_and_keeps_a_box_without_area() -> None:
    merged = merge_found([found([BOX, NEAR, (5.0, 5.0, 5.0, 5.0)], [0.6, 0.5, 0.4], [0, 1, 0])], Merge("voting"), 100)
    assert merged.boxes_xyxy.tolist() == [list(BOX), list(NEAR), [5.0] * 4]


def test_fusion_scales_a_score_by_the_members_that_found_it() -> None:
    merged = merge_found([found([BOX, FAR], [0.6, 0.5]), found([NEAR], [0.2])], Merge("fusion"), 100)
    np.testing.assert_allclose(merged.boxes_xyxy, [[0, 0, 10, 9.5], FAR], rtol=1e-6)
    np.testing.assert_allclose(merged.scores, [0.4, 0.25], rtol=1e-6)  # mean of 0.6 and 0.2; half of 0.5


def test_fusion_counts_a_member_once() -> None:
    """Two boxes of one member whose IoU is below the threshold may both join a cluster between them."""
    low, middle, high = (0.0, 0.0, 10.0, 10.0), (0.0, 1.5, 10.0, 11.5), (0.0, 3.0, 10.0, 13.0)
    merged = merge_found(
        [found([middle], [0.9]), found([low, high], [0.5, 0.4]), found([], [])], Merge("fusion", 0.6), 9
    )
    np.testing.assert_allclose(merged.scores, [0.6 * 2 / 3], rtol=1e-6)


def test_a_method_that_is_none_is_told() -> None:
    with pytest.raises(InputError, match="got the merge 'mean', expected one of nms, soft_linear"):
        Merge("mean")
