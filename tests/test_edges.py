"""Predicted spread beside the distance of the edges: on series whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gfl.report.edges import Edges, correlation, right_edges, summarise
from gfl.report.kinds import judge
from gfl.report.sentences import edges_sentence, spread_sentence, whole_percent
from tests.test_kinds import FAR, OBJECT, found_of, truth_of


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 300, 4000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 0.5),
        ([1, 1, 2, 2], [1, 2, 3, 4], 0.8944271909999159),  # equals share their mean rank
        ([1, 1, 1], [1, 2, 3], math.nan),
    ],
)
def test_the_rank_correlation_is_spearmans(one: list[float], other: list[float], expected: float) -> None:
    assert correlation(np.array(one, float), np.array(other, float)) == pytest.approx(expected, nan_ok=True)


def test_edges_are_those_of_right_detections_alone() -> None:
    truth = truth_of([OBJECT], [1])
    spread = np.array([[1.0, 2, 3, 4], [9, 9, 9, 9]])
    found = found_of([[12, 10, 20, 21], FAR], [1, 1])._replace(edge_std=spread)
    edges = right_edges(truth, found, tuple(judge(truth, found)))
    assert edges is not None
    assert edges.spread_px.tolist() == [[1, 2, 3, 4]]
    assert edges.error_px.tolist() == [[2, 0, 2, 1]]  # left, top, right, bottom: found minus true


def test_without_spread_or_with_few_edges_nothing_is_said() -> None:
    truth = truth_of([OBJECT], [1])
    assert right_edges(truth, found_of([OBJECT], [1]), ()) is None
    assert summarise(Edges(np.ones((3, 4)), np.ones((3, 4)))) is None


def test_the_summary_of_edges_whose_error_is_half_their_spread() -> None:
    spread = np.linspace(1, 100, 400).reshape(100, 4)
    said = summarise(Edges(spread, np.where(np.arange(400).reshape(100, 4) % 2, 1, -1) * spread / 2))
    assert said is not None
    assert (said.edges, said.within_one, said.within_two) == (400, 1.0, 1.0)
    assert said.correlation == pytest.approx(1.0)
    assert [group.edges for group in said.groups] == [40] * 10
    assert [group.error_px / group.spread_px for group in said.groups] == pytest.approx([0.5] * 10)
    assert np.mean(said.error_by_side_px) == pytest.approx(said.error_px)


def test_the_sentence_of_the_edges_claims_no_more_than_they_tell() -> None:
    spread, error = np.linspace(1, 9, 40).reshape(10, 4), np.linspace(1, 9, 40).reshape(10, 4)
    few, same, alike = (
        summarise(Edges(*pair)) for pair in ((spread, error), (1 + 0 * spread, error), (spread, 0 * error))
    )
    many = summarise(Edges(np.tile(spread, (10, 1)), np.tile(error, (10, 1))))
    assert few is not None
    assert same is not None
    assert alike is not None
    assert many is not None
    assert "but of 40 edges alone: too few to rely on" in edges_sentence(few)
    assert edges_sentence(many).endswith("(rank correlation 1.00).")
    assert "their predicted spread is always the same" in edges_sentence(same)
    assert "The tenth" not in spread_sentence(same)
    assert "nothing for their predicted spread to tell" in edges_sentence(alike)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_none_and_all_are_said_of_none_and_all_alone(share: float) -> None:
    assert whole_percent(share) not in ("0%", "100%")
