"""How far the edges of right detections lie from the true ones, beside the spread that was predicted for them.

GFL predicts a distribution for each edge; its standard deviation, `edge_std`, is how sure the detector is of that edge.
Letters: M right detections, 4 = left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gfl.data.coco_columns import DetectionColumns
from gfl.data.coco_json import Floats, GroundTruth, Ints
from gfl.report.kinds import Judged

GROUPS = 10  # of edges, by predicted spread, as many edges in each
FEWEST = 40  # edges that a correlation is worth telling of
# Edges from which it is worth relying on: with fewer, one of 0.2 comes by chance more than once in twenty times, the
# four edges of a box being no four independent ones.
ENOUGH = 400
SIDES = ("left", "top", "right", "bottom")


class Edges(NamedTuple):
    """The edges of right detections."""

    spread_px: Floats  # (M,4) predicted
    error_px: Floats  # (M,4) found minus true


class Group(NamedTuple):
    """Edges of about one predicted spread."""

    edges: int
    spread_px: float  # mean of those predicted
    error_px: float  # mean distance from the true edge


class EdgeSummary(NamedTuple):
    """What the edges say together."""

    edges: int
    correlation: float  # Spearman's, of predicted spread and distance; NaN where one of them is always the same
    is_spread_constant: bool
    within_one: float  # share of edges that lie no further from the true edge than their spread
    within_two: float
    error_px: float  # mean distance
    groups: tuple[Group, ...]  # by predicted spread
    error_by_side_px: tuple[float, ...]  # of left, top, right, bottom


def right_edges(truth: GroundTruth, found: DetectionColumns, judged: Sequence[Judged]) -> Edges | None:
    """None where the detections come without the spread of their edges."""
    if found.edge_std is None:
        return None
    pairs = [(each.rows[each.objects >= 0], each.objects[each.objects >= 0]) for each in judged]
    rows, objects = (np.concatenate([np.empty(0, np.int64), *part]) for part in zip(*pairs, strict=True))
    return Edges(found.edge_std[rows], corners_xyxy(found.boxes_xywh[rows]) - corners_xyxy(truth.boxes_xywh[objects]))


def summarise(edges: Edges) -> EdgeSummary | None:
    """None where there are too few edges to say anything."""
    spread, distance = edges.spread_px.ravel(), np.abs(edges.error_px).ravel()
    if len(spread) < FEWEST:
        return None
    groups = tuple(
        Group(len(part), float(spread[part].mean()), float(distance[part].mean()))
        for part in np.array_split(np.argsort(spread, kind="stable"), GROUPS)
    )
    return EdgeSummary(
        edges=len(spread),
        correlation=correlation(spread, distance),
        is_spread_constant=bool(np.ptp(spread) == 0),
        within_one=float((distance <= spread).mean()),
        within_two=float((distance <= 2 * spread).mean()),
        error_px=float(distance.mean()),
        groups=groups,
        error_by_side_px=tuple(np.abs(edges.error_px).mean(axis=0).tolist()),
    )


def correlation(one: Floats, other: Floats) -> float:
    """Spearman's correlation of two series: Pearson's of their ranks, equals sharing theirs. NaN for a constant one."""
    ranks_one, ranks_other = _ranks(one), _ranks(other)
    if np.ptp(ranks_one) == 0 or np.ptp(ranks_other) == 0:
        return float("nan")
    return float(np.corrcoef(ranks_one, ranks_other)[0, 1])


def _ranks(values: Floats) -> Floats:
    places: Ints
    counts: Ints
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def corners_xyxy(boxes_xywh: Floats) -> Floats:
    """(N,4) x, y, width, height -> left, top, right, bottom."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
