"""One picture's boxes of several views or models, merged: NMS, soft-NMS, box voting, weighted box fusion. NumPy only.

N is boxes of a picture, K those that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import pairwise_iou
from gfl.errors import InputError
from gfl.runtime.description import Arrays, Thresholds

FOUND_NAMES = ("boxes", "scores", "labels", "edge_std")  # of a model's outputs, in the order of Found
Floats = NDArray[np.floating]
Indices = NDArray[np.intp]

METHODS = ("nms", "soft_linear", "soft_gaussian", "voting", "fusion")
SOFT_LINEAR_IOU = 0.3  # from here on scores decay (Bodla et al., arXiv 1704.04503)


class Found(NamedTuple):
    """Boxes of one picture, in any order."""

    boxes_xyxy: Floats  # (N,4) px
    scores: Floats  # (N,)
    labels: NDArray[np.integer]  # (N,)
    edge_std: Floats  # (N,4) px: spread of the left, top, right and bottom edge

    def select(self, chosen: Indices) -> Found:
        """Those at these places, in their order."""
        return Found(self.boxes_xyxy[chosen], self.scores[chosen], self.labels[chosen], self.edge_std[chosen])


@dataclass(frozen=True)
class Merge:
    """How boxes are merged. Raises InputError for a method that is none."""

    method: str = "nms"
    iou: float = 0.6  # boxes that overlap by more are of one object; soft_linear: scores decay from here on
    sigma: float = 0.5  # of soft_gaussian
    min_score: float = 0.001  # soft-NMS drops what decays below it
    class_agnostic: bool = False  # boxes of different classes suppress each other too

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"got the merge {self.method!r}, expected one of {', '.join(METHODS)}; give one of them")

    def decay(self, iou: Floats) -> Floats:
        """What the scores of boxes are multiplied by that overlap the one just taken."""
        if self.method == "soft_gaussian":
            return np.asarray(np.exp(-(iou**2) / self.sigma))
        if self.method == "soft_linear":
            return np.where(iou >= self.iou, 1 - iou, 1.0)
        return np.where(iou > self.iou, 0.0, 1.0)

    @property
    def least_score(self) -> float:
        """Below it a box goes; hard NMS makes its score 0."""
        return self.min_score if self.method.startswith("soft") else np.finfo(np.float64).tiny


def rule_of(method: str, own: Thresholds) -> Merge:
    """The method with the overlap of a model's own NMS, soft_linear with its authors'; over all classes as that is."""
    iou = SOFT_LINEAR_IOU if method == "soft_linear" else own.nms_iou
    return Merge(method, iou, class_agnostic=own.class_agnostic)


def merge_found(members: Sequence[Found], rule: Merge, most: int) -> Found:
    """The boxes of all members as at most `most`, best first. Of equal scores, the earlier member's comes first."""
    if rule.method == "fusion":
        return fuse(members, rule, most)
    found = join_found(members)
    kept, scores = select_boxes(found, rule, most)
    merged = found.select(kept)._replace(scores=scores)
    return vote(merged, kept, found, rule.iou) if rule.method == "voting" else merged


def found_in(outputs: Arrays) -> list[Found]:
    """What a model's outputs for a batch hold, a picture each."""
    pictures = zip(*(outputs[name] for name in FOUND_NAMES), strict=True)
    return [
        Found(*parts).select(np.arange(count)) for parts, count in zip(pictures, outputs["count"].tolist(), strict=True)
    ]


def merge_runs(runs: Sequence[Sequence[Found]], outputs: Sequence[Arrays], rule: Merge, most: int) -> Arrays:
    """What several runs found in a batch, brought to the same pixels, as the outputs of one.

    outputs: of the runs as they came. A picture is complete where all have been, and, of candidates, where none is
    missing that could be among the best.
    """
    pictures = [merge_found(members, rule, most) for members in zip(*runs, strict=True)]
    count = len(pictures)
    merged: Arrays = {
        "boxes": np.zeros((count, most, 4), np.float32),
        "scores": np.zeros((count, most), np.float32),
        "labels": np.full((count, most), -1, np.int32),
        "edge_std": np.zeros((count, most, 4), np.float32),
        "count": np.array([len(found.scores) for found in pictures], np.int32),
    }
    for i, found in enumerate(pictures):
        for name, part in zip(FOUND_NAMES, found, strict=True):
            merged[name][i, : len(part)] = part
    complete = np.all([each["complete"] for each in outputs], axis=0)
    if outputs[0]["scores"].shape[1] > most:  # candidates: there may be more, up to the score in the last slot
        missed = np.max([each["scores"][:, -1] for each in outputs], axis=0)  # 0 where slots are empty
        complete &= (missed == 0) | (merged["scores"][:, -1] >= missed)
    return merged | {"complete": complete.astype(np.int32)}


def join_found(members: Sequence[Found]) -> Found:
    """All boxes, member after member."""
    return Found(*(np.concatenate(parts) for parts in zip(*members, strict=True)))


def select_boxes(found: Found, rule: Merge, most: int) -> tuple[Indices, Floats]:
    """NMS, hard or soft: take the best box with its present score, let those of the others decay, and so on.

    Returns the places (K,) of at most `most` boxes in the order they were taken, and their scores (K,) float64, which
    never rise. Soft-NMS: Bodla et al., arXiv 1704.04503.
    """
    rest, left = np.arange(len(found.scores)), found.scores.astype(np.float64)
    boxes = found.boxes_xyxy.astype(np.float64)
    kept: list[int] = []
    scores: list[float] = []
    while len(rest) and len(kept) < most:
        place = int(left.argmax())  # the first of equals
        best = rest[place]
        kept.append(best)
        scores.append(left[place])
        iou = pairwise_iou(boxes[best : best + 1], boxes[rest])[0]
        if not rule.class_agnostic:
            iou[found.labels[rest] != found.labels[best]] = 0.0
        left = left * rule.decay(iou)
        stays = left >= rule.least_score
        stays[place] = False
        rest, left = rest[stays], left[stays]
    return np.array(kept, np.intp), np.array(scores, np.float64)


def vote(merged: Found, kept: Indices, found: Found, iou: float) -> Found:
    """Each kept box, and the spread of its edges, as the score-weighted mean over the boxes of its class that overlap
    it by at least `iou`, itself among them; scores stay (Gidaris and Komodakis, arXiv 1505.01749)."""
    near = pairwise_iou(merged.boxes_xyxy, found.boxes_xyxy) >= iou
    near &= merged.labels[:, None] == found.labels
    near[np.arange(len(kept)), kept] = True  # a box without area overlaps not even itself
    weights = np.where(near, found.scores, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return merged._replace(boxes_xyxy=weights @ found.boxes_xyxy, edge_std=weights @ found.edge_std)


def fuse(members: Sequence[Found], rule: Merge, most: int) -> Found:
    """Weighted box fusion: a box joins the cluster whose mean it overlaps most, if by more than the IoU; its score is
    the mean of theirs, times the share of the members that found it.

    Solovyev et al., arXiv 1910.13302, who count boxes where this counts members. Each member's boxes go through NMS
    first, which in the paper the models have done.
    """
    alone = Merge("nms", rule.iou, class_agnostic=rule.class_agnostic)
    found = join_found(own := [member.select(select_boxes(member, alone, most)[0]) for member in members])
    rows = np.concatenate([found.boxes_xyxy, found.edge_std], axis=1).astype(np.float64)
    origin = np.repeat(np.arange(len(own)), [len(member.scores) for member in own])
    clusters: list[list[int]] = []
    means = np.zeros((0, 8))  # of the clusters: box and spread
    for box in np.argsort(-found.scores, kind="stable"):
        iou = pairwise_iou(found.boxes_xyxy[box : box + 1], means[:, :4])[0]
        if not rule.class_agnostic:
            iou[found.labels[[cluster[0] for cluster in clusters]] != found.labels[box]] = 0.0
        if len(iou) == 0 or iou.max() <= rule.iou:
            clusters.append([box])
            means = np.concatenate([means, rows[box : box + 1]])
        else:
            cluster = clusters[place := int(iou.argmax())]
            cluster.append(box)
            means[place] = np.average(rows[cluster], axis=0, weights=found.scores[cluster])
    shares = np.array([len(set(origin[cluster])) / len(own) for cluster in clusters])
    scores = np.array([found.scores[cluster].mean() for cluster in clusters]) * shares
    labels = found.labels[[cluster[0] for cluster in clusters]]
    return Found(means[:, :4], scores, labels, means[:, 4:]).select(np.argsort(-scores, kind="stable")[:most])
