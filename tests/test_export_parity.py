"""The gate that compares an exported file with PyTorch by number: what it matches, excuses and lets fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_export import Row, detection_arrays
from tiny_onnx import DESCRIPTION

from export.parity import Parity, check_rivals, compare_detections, detections_of, match
from gfl.runtime.description import Arrays, Thresholds

LIMITS = DESCRIPTION.thresholds
BOX = (10.0, 10.0, 50.0, 50.0)
NEAR = (12.0, 10.0, 52.0, 50.0)  # overlaps BOX so far that NMS keeps one of the two
ELSEWHERE = (60.0, 10.0, 90.0, 50.0)


def compared(of_file: Arrays, of_pytorch: Arrays, limits: Thresholds = LIMITS) -> Parity:
    parity = Parity()
    compare_detections(parity, ("picture",), of_file, of_pytorch, limits)
    return parity


@pytest.mark.parametrize(
    ("extra", "limits", "excused"),
    [
        ((0.05005, 0, ELSEWHERE), LIMITS, True),  # near the threshold
        ((0.3, 0, ELSEWHERE), LIMITS, False),
        ((0.3, 0, (10.0, 10.0, 50.0, 34.0)), LIMITS, True),  # IoU 0.6 with BOX
        ((0.3, 0, (10.0, 10.0, 50.0, 35.0)), LIMITS, False),  # 0.625
        ((0.3, 1, (10.0, 10.0, 50.0, 34.0)), LIMITS, False),  # of another class
        ((0.89995, 0, ELSEWHERE), replace(LIMITS, max_detections=1), True),  # near the last score kept
    ],
)
def test_a_detection_of_one_side_is_excused_near_a_limit_only(extra: Row, limits: Thresholds, excused: bool) -> None:
    plain, more = detection_arrays((0.9, 0, BOX)), detection_arrays((0.9, 0, BOX), extra)
    for of_file, of_pytorch in ((plain, more), (more, plain)):
        parity = compared(of_file, of_pytorch, limits)
        assert (len(parity.excused), len(parity.failures)) == ((1, 0) if excused else (0, 1))


@pytest.mark.parametrize(
    ("other", "excused"),
    [
        ((0.89995, 0, NEAR), True),  # NMS may keep either of the two
        ((0.895, 0, NEAR), False),  # the better one is known
        ((0.89995, 1, NEAR), False),  # of another class
        ((0.89995, 0, (30.0, 10.0, 70.0, 50.0)), False),  # NMS would keep both
    ],
)
def test_two_that_are_equally_good_stand_for_each_other(other: Row, excused: bool) -> None:
    parity = compared(detection_arrays((0.9, 0, BOX)), detection_arrays(other))
    assert (len(parity.excused), len(parity.failures)) == ((2, 0) if excused else (0, 2))


LINEAR, GAUSSIAN = replace(LIMITS, nms="soft_linear"), replace(LIMITS, nms="soft_gaussian")
CROSSING = (30.0, 10.0, 70.0, 50.0)  # overlaps BOX by an IoU of a third


@pytest.mark.parametrize(
    ("limits", "rows", "others", "excused"),
    [
        # The one that is taken first lowers the other: either may be, where their scores are equal.
        (LINEAR, [(0.9, 0, BOX), (0.1, 0, NEAR)], [(0.9, 0, NEAR), (0.1, 0, BOX)], True),
        (LINEAR, [(0.9, 0, BOX), (0.6, 0, CROSSING)], [(0.9, 0, CROSSING), (0.6, 0, BOX)], False),
        (GAUSSIAN, [(0.9, 0, BOX), (0.7, 0, CROSSING)], [(0.9, 0, CROSSING), (0.7, 0, BOX)], True),
        (GAUSSIAN, [(0.9, 0, BOX), (0.7, 0, CROSSING)], [(0.9, 0, BOX), (0.6, 0, CROSSING)], False),
        (GAUSSIAN, [(0.9, 0, BOX), (0.7, 1, CROSSING)], [(0.9, 1, CROSSING), (0.7, 0, BOX)], False),
        # IoU 0.6: on one side it decays, on the other it does not.
        (
            LINEAR,
            [(0.9, 0, BOX), (0.5, 0, (10.0, 10.0, 50.0, 34.0))],
            [(0.9, 0, BOX), (0.2, 0, (10.0, 10.0, 50.0, 34.0))],
            True,
        ),
        (
            GAUSSIAN,
            [(0.9, 0, BOX), (0.5, 0, (10.0, 10.0, 50.0, 34.0))],
            [(0.9, 0, BOX), (0.2, 0, (10.0, 10.0, 50.0, 34.0))],
            False,
        ),
        # Near the least score that may stay.
        (replace(LINEAR, soft_min_score=0.2), [(0.9, 0, BOX), (0.20005, 0, ELSEWHERE)], [(0.9, 0, BOX)], True),
        (replace(LIMITS, soft_min_score=0.2), [(0.9, 0, BOX), (0.20005, 0, ELSEWHERE)], [(0.9, 0, BOX)], False),
    ],
)
def test_another_score_under_soft_nms_is_excused_where_a_choice_was_close(
    limits: Thresholds, rows: list[Row], others: list[Row], excused: bool
) -> None:
    parity = compared(detection_arrays(*rows), detection_arrays(*others), limits)
    assert bool(parity.excused) == excused
    assert bool(parity.failures) != excused


def test_class_agnostic_nms_lets_one_of_another_class_stand_for_a_detection() -> None:
    sides = detection_arrays((0.9, 0, BOX)), detection_arrays((0.89995, 1, NEAR))
    assert len(compared(*sides, replace(LIMITS, class_agnostic=True)).excused) == 2
    assert compared(*sides).failures


def test_what_an_excused_detection_suppresses_is_excused_too_and_what_that_does() -> None:
    first, kept_without_it = (0.05 + 5e-5, 0, BOX), (0.4, 0, NEAR)
    next_in_line = (0.2, 0, (19.0, 10.0, 59.0, 50.0))  # overlaps NEAR alone
    parity = compared(detection_arrays(first, next_in_line), detection_arrays(kept_without_it))
    assert (len(parity.excused), parity.failures) == (3, [])


def test_matching_pairs_the_nearest_of_a_class() -> None:
    rows: list[list[Row]] = [[(0.9, 0, BOX), (0.8, 1, BOX), (0.7, 0, ELSEWHERE)], [(0.9, 1, BOX), (0.8, 0, BOX)], []]
    a, b, nothing = (detections_of(detection_arrays(*some), 0) for some in rows)
    assert sorted(match(a, b)) == [(0, 1), (1, 0)]
    assert match(nothing, b) == match(b, nothing) == []


def test_boxes_that_all_lie_elsewhere_are_not_excused_as_equally_good() -> None:
    there = detection_arrays((0.9, 0, BOX), (0.8, 1, BOX))
    moved, beside = detection_arrays((0.9, 0, NEAR), (0.8, 1, BOX)), detection_arrays((0.9, 0, NEAR), (0.8, 1, NEAR))
    for of_file, passes in ((there, True), (moved, False), (beside, False)):
        parity = compared(of_file, there)
        assert parity.failures == []
        check_rivals(parity)
        assert (parity.failures == []) == passes


@pytest.mark.parametrize(
    ("row", "agrees"),
    [
        ((0.90005, 0, (10.0, 10.0, 50.04, 50.0)), True),
        ((0.9002, 0, BOX), False),
        ((0.9, 0, (10.0, 10.0, 50.06, 50.0)), False),
        ((float("nan"), 0, BOX), False),
        ((0.9, 1, BOX), False),
    ],
)
def test_a_pair_beyond_tolerance_is_a_failure(row: Row, agrees: bool) -> None:
    assert (compared(detection_arrays(row), detection_arrays((0.9, 0, BOX))).failures == []) == agrees


def test_a_file_that_claims_to_be_complete_wrongly_is_a_failure() -> None:
    assert len(compared(detection_arrays((0.9, 0, BOX)), detection_arrays((0.9, 0, BOX), complete=0)).failures) == 1


@pytest.mark.parametrize("name", ["boxes", "scores", "edge_std"])
def test_a_number_that_is_none_is_a_failure_in_an_empty_slot_too(name: str) -> None:
    for slot in (0, 4):
        broken = detection_arrays((0.9, 0, BOX))
        broken[name][0, slot] = float("nan")
        assert f"in {name} of the file are NaN" in compared(broken, detection_arrays((0.9, 0, BOX))).failures[0]
        assert compared(broken, broken).failures


def test_nothing_on_either_side_agrees() -> None:
    assert compared(detection_arrays(), detection_arrays()) == Parity()
