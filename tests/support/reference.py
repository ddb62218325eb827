"""What the papers and the authors' code compute, in loops: slow and obvious, to compare the fixed-shape code with.

One picture at a time, in float64 unless stated otherwise. A anchor, G box, I ignored box, K class channel, R bins.
Sources: ATSS (1912.02424), GFL (2006.04388), GFLV2 (2011.12885) and the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Box = Sequence[float]  # x1, y1, x2, y2
Array = NDArray[np.float64]

STRIDES = (8, 16, 32, 64, 128)
NOBODY, IGNORED, OUTSIDE = 0, -1, -9  # owners of an anchor without a box; the k-th box is k = 1, 2, ...


# ---- anchors and boxes ----


class Anchor(NamedTuple):
    """One cell of one level; its centre in px."""

    level: int
    stride: int
    x: float
    y: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """A square with a side of 8 strides."""
        half = 4 * self.stride
        return (self.x - half, self.y - half, self.x + half, self.y + half)


def anchors_of(canvas_hw: tuple[int, int]) -> list[Anchor]:
    """All anchors of a canvas, level by level, row by row."""
    found = []
    for level, stride in enumerate(STRIDES):
        for row in range(math.ceil(canvas_hw[0] / stride)):
            for column in range(math.ceil(canvas_hw[1] / stride)):
                found.append(Anchor(level, stride, column * stride, row * stride))
    return found


def is_inside(anchor: Anchor, padded_hw: tuple[int, int]) -> bool:
    """Whether the anchor's cell lies below ceil(pad_h / stride) rows and ceil(pad_w / stride) columns."""
    row, column = anchor.y / anchor.stride, anchor.x / anchor.stride
    return row < math.ceil(padded_hw[0] / anchor.stride) and column < math.ceil(padded_hw[1] / anchor.stride)


def area(box: Box) -> float:
    """Width times height."""
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def iou(a: Box, b: Box) -> float:
    """Intersection over union; the union is at least 1e-6."""
    shared = intersection(a, b)
    return shared / max(area(a) + area(b) - shared, 1e-6)


def giou(a: Box, b: Box) -> float:
    """IoU less the share of the enclosing box that is in neither."""
    shared = intersection(a, b)
    union = max(area(a) + area(b) - shared, 1e-6)
    width = max(a[2], b[2]) - min(a[0], b[0])
    height = max(a[3], b[3]) - min(a[1], b[1])
    enclosing = max(max(width, 0.0) * max(height, 0.0), 1e-6)
    return shared / union - (enclosing - union) / enclosing


# ---- ATSS ----


class Owners(NamedTuple):
    """The box of each anchor, and the boxes for which rounding may decide."""

    owner: NDArray[np.int64]  # (A,) k: the k-th box (from 1), or NOBODY, IGNORED, OUTSIDE
    doubtful: set[int]  # boxes (from 1) for which a comparison is closer than float32 can tell
    tied: set[tuple[int, int]]  # (box, level) whose last candidate is as near as the first that is none, to 1e-4 px


def atss(
    canvas_hw: tuple[int, int],
    padded_hw: tuple[int, int],
    boxes: Sequence[Box],
    ignored: Sequence[Box] = (),
    ignore_iof: float = -1.0,
    topk: int = 9,
    ties_as_torch: bool = False,
) -> Owners:
    """Adaptive training sample selection for one picture.

    Of equally near anchors the first are candidates; with `ties_as_torch` those that torch.topk takes on the CPU from
    all of a level's anchors, which is the authors' choice.
    """
    anchors = anchors_of(canvas_hw)
    owner = np.full(len(anchors), NOBODY)
    best_iou = np.full(len(anchors), -1.0)
    doubtful: set[int] = set()
    tied: set[tuple[int, int]] = set()
    valid = [index for index, anchor in enumerate(anchors) if is_inside(anchor, padded_hw)]
    covered = {index for index in valid if _is_covered(anchors[index], ignored, ignore_iof)}
    for index in range(len(anchors)):
        owner[index] = IGNORED if index in covered else NOBODY if is_inside(anchors[index], padded_hw) else OUTSIDE
    for k, box in enumerate(boxes, start=1):
        candidates = []
        for level in range(len(STRIDES)):
            of_level = [index for index in valid if anchors[index].level == level]
            distances = {index: 1e8 if index in covered else _distance(anchors[index], box) for index in of_level}
            nearest = sorted(distances, key=lambda index, of=distances: (of[index], index))
            candidates += _nearest_as_torch(distances, topk) if ties_as_torch else nearest[:topk]
            if len(nearest) > topk and distances[nearest[topk]] - distances[nearest[topk - 1]] < 1e-4:
                tied.add((k, level))
                doubtful.add(k)
        overlaps = [iou(anchors[index].box, box) for index in candidates]
        threshold = _mean(overlaps) + _unbiased_std(overlaps)
        for index, overlap in zip(candidates, overlaps, strict=True):
            margin = _margin(anchors[index], box)
            if abs(margin - 0.01) < 1e-4 or (margin > 0.01 and abs(overlap - threshold) < 2e-6):
                doubtful.add(k)
            if overlap < threshold or margin <= 0.01:
                continue
            rival = owner[index]
            if rival > 0 and abs(overlap - best_iou[index]) < 1e-6 and tuple(boxes[rival - 1]) != tuple(box):
                doubtful.update((k, int(rival)))
            if overlap > best_iou[index]:  # ties stay with the box that came first
                owner[index], best_iou[index] = k, overlap
    return Owners(owner, doubtful, tied)


def _is_covered(anchor: Anchor, ignored: Sequence[Box], ignore_iof: float) -> bool:
    if ignore_iof <= 0:
        return False
    return any(intersection(anchor.box, crowd) / area(anchor.box) > ignore_iof for crowd in ignored)


def _nearest_as_torch(distances: dict[int, float], topk: int) -> list[int]:
    if not distances:
        return []
    chosen = torch.tensor(list(distances.values()), dtype=torch.float32).topk(min(topk, len(distances)), largest=False)
    return [list(distances)[position] for position in chosen.indices.tolist()]


def _distance(anchor: Anchor, box: Box) -> float:
    return math.hypot(anchor.x - (box[0] + box[2]) / 2, anchor.y - (box[1] + box[3]) / 2)


def _margin(anchor: Anchor, box: Box) -> float:
    """How far inside the box the anchor's centre lies, px."""
    return min(anchor.x - box[0], anchor.y - box[1], box[2] - anchor.x, box[3] - anchor.y)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _unbiased_std(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


# ---- the head's distribution ----


def softmax(logits: Sequence[float]) -> list[float]:
    """Exponentials over their sum."""
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    return [power / sum(powers) for power in powers]


def integral(logits: Sequence[float]) -> float:
    """The mean of one edge's distribution, in strides."""
    return sum(value * probability for value, probability in enumerate(softmax(logits)))


def spread(logits: Sequence[float]) -> float:
    """The standard deviation of one edge's distribution, in strides."""
    mean = integral(logits)
    return math.sqrt(sum((value - mean) ** 2 * p for value, p in enumerate(softmax(logits))))


def quality(edges: Array, first: tuple[Array, Array], second: tuple[Array, Array], topk: int = 4) -> float:
    """DGQP of one anchor. edges (4,R) logits; first: weight (hidden, 4*(topk+1)) and bias; second: (1,hidden), bias."""
    statistics: list[float] = []
    for logits in edges:
        top = sorted(softmax(list(logits)), reverse=True)[:topk]
        statistics += [*top, _mean(top)]  # side-major: l, t, r, b
    hidden = [max(float(row @ statistics + b), 0.0) for row, b in zip(*first, strict=True)]
    return 1.0 / (1.0 + math.exp(-float(second[0][0] @ hidden + second[1][0])))


# ---- losses ----


class Losses(NamedTuple):
    """The final losses of each level, and what they were divided by."""

    qfl: list[Tensor]
    dfl: list[Tensor]
    giou: list[Tensor]
    samples: float  # the divisor of qfl
    weight: float  # the divisor of dfl and giou

    @property
    def total(self) -> Tensor:
        return torch.stack([*self.qfl, *self.dfl, *self.giou]).sum()


def losses(
    scores: Sequence[Tensor],
    edge_logits: Sequence[Tensor],
    owners: Sequence[NDArray[np.int64]],
    boxes: Sequence[Sequence[Box]],
    labels: Sequence[Sequence[int]],
    canvas_hw: tuple[int, int],
    beta: float = 2.0,
) -> Losses:
    """QFL, DFL and GIoU as the authors formulate them, a positive at a time; lists are over the pictures.

    scores (A,K) and edge_logits (A,4,R) in float64: gradients flow into both. Without a positive the box losses are 0.
    """
    anchors = anchors_of(canvas_hw)
    zero = torch.zeros((), dtype=torch.float64)
    qfl, dfl, giou_loss = [zero] * 5, [zero] * 5, [zero] * 5
    weight, samples = 0.0, 0
    for p_AK, logits, owner, truths, classes in zip(scores, edge_logits, owners, boxes, labels, strict=True):
        focal_AK = _bce(p_AK, torch.zeros_like(p_AK)) * p_AK**beta
        positives = [index for index in range(len(anchors)) if owner[index] > 0]
        samples += max(len(positives), 1)
        for level in range(5):
            counted = [i for i, anchor in enumerate(anchors) if anchor.level == level and owner[i] >= 0]
            qfl[level] = qfl[level] + focal_AK[counted].sum()
        for index in positives:
            level, stride = anchors[index].level, anchors[index].stride
            truth = torch.tensor([float(edge) for edge in truths[owner[index] - 1]], dtype=torch.float64) / stride
            centre = torch.tensor([anchors[index].x, anchors[index].y], dtype=torch.float64) / stride
            p, label = p_AK[index], classes[owner[index] - 1]
            overlap, generalised = _iou_and_giou(_decode(logits[index], centre), truth)
            s = overlap.detach()
            qfl[level] = qfl[level] - focal_AK[index, label] + _bce(p[label], s) * (s - p[label]).abs() ** beta
            w = p.detach().max()
            weight += float(w)
            giou_loss[level] = giou_loss[level] + 2.0 * w * (1.0 - generalised)
            dist = torch.cat([centre - truth[:2], truth[2:] - centre])
            dfl[level] = dfl[level] + 0.25 * w * sum(_dfl(logits[index, e], float(dist[e])) for e in range(4)) / 4
    divisor = weight if weight > 0 else 1.0
    return Losses(
        [x / max(samples, 1) for x in qfl],
        [x / divisor for x in dfl],
        [x / divisor for x in giou_loss],
        samples,
        weight,
    )


def _bce(p: Tensor, target: Tensor) -> Tensor:
    return -(target * p.log().clamp_min(-100) + (1 - target) * (1 - p).log().clamp_min(-100))


def _dfl(logits: Tensor, dist: float) -> Tensor:
    reg_max = len(logits) - 1
    y = min(max(dist, 0.0), reg_max - 0.1)
    left = math.floor(y)
    log_probabilities = logits.log_softmax(0)
    return -log_probabilities[left] * (left + 1 - y) - log_probabilities[left + 1] * (y - left)


def _decode(logits: Tensor, centre: Tensor) -> Tensor:
    dist = (logits.softmax(1) * torch.arange(logits.shape[1], dtype=torch.float64)).sum(1)
    return torch.cat([centre - dist[:2], centre + dist[2:]])


def _iou_and_giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """As `iou` and `giou`, on tensors (4,) that gradients flow through."""
    size_a, size_b = a[2:] - a[:2], b[2:] - b[:2]
    shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp_min(0).prod()
    union = (size_a.prod() + size_b.prod() - shared).clamp_min(1e-6)
    enclosing = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).clamp_min(0).prod().clamp_min(1e-6)
    return shared / union, shared / union - (enclosing - union) / enclosing


# ---- detections ----


class Found(NamedTuple):
    """One detection."""

    score: float
    label: int
    box: tuple[float, ...]
    edge_std: tuple[float, ...]


def greedy_nms(boxes: Sequence[Box], scores: Sequence[float], labels: Sequence[int], iou_threshold: float) -> list[int]:
    """Class-wise greedy NMS: indices kept, best first; equal scores in the order given."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(labels[j] != labels[i] or iou(boxes[j], boxes[i]) <= iou_threshold for j in kept):
            kept.append(i)
    return kept


def soft_nms(
    boxes: Sequence[Box],
    scores: Sequence[float],
    labels: Sequence[int],
    decay: Callable[[float], float],
    min_score: float,
) -> list[tuple[int, float]]:
    """Class-wise soft-NMS: (index, decayed score) of the boxes kept, as they are taken; the lowest of equals first.

    decay: from an IoU to the factor of a score.
    """
    left = dict(enumerate(scores))
    kept: list[tuple[int, float]] = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        kept.append((best, left.pop(best)))
        for i in left:
            left[i] *= decay(iou(boxes[best], boxes[i])) if labels[i] == labels[best] else 1.0
        left = {i: score for i, score in left.items() if score >= min_score}
    return kept


def select(scores_AK: NDArray[np.float32], usable: Sequence[bool], score_threshold: float) -> list[tuple[int, int]]:
    """All (anchor, class) pairs of usable anchors above the threshold (strict, in float32), best first."""
    threshold = np.float32(score_threshold)
    pairs = [
        (a, k) for a in range(len(scores_AK)) if usable[a] for k in np.flatnonzero(scores_AK[a] > threshold).tolist()
    ]
    return sorted(pairs, key=lambda pair: (-float(scores_AK[pair]), pair))


def detect(
    scores_AK: NDArray[np.float32],
    edges_A4R: NDArray[np.float32],
    image_hw: tuple[int, int],
    usable: Sequence[bool],
    canvas_hw: tuple[int, int],
    score_threshold: float = 0.05,
    nms_iou: float = 0.6,
    most: int = 100,
) -> list[Found]:
    """Full greedy NMS over every pair above the threshold, no cut before it; the first `most`."""
    anchors = anchors_of(canvas_hw)
    found = []
    for a, k in select(scores_AK, usable, score_threshold):
        dist = [integral(list(logits)) * anchors[a].stride for logits in edges_A4R[a].astype(float)]
        std = tuple(spread(list(logits)) * anchors[a].stride for logits in edges_A4R[a].astype(float))
        x, y, (height, width) = anchors[a].x, anchors[a].y, image_hw
        corners = ((x - dist[0], width), (y - dist[1], height), (x + dist[2], width), (y + dist[3], height))
        box = tuple(min(max(edge, 0.0), float(limit)) for edge, limit in corners)
        found.append(Found(float(scores_AK[a, k]), k, box, std))
    kept = greedy_nms([f.box for f in found], [f.score for f in found], [f.label for f in found], nms_iou)
    return [found[i] for i in kept[:most]]
