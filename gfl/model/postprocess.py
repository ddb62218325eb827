"""From the head's outputs to detections, with fixed shapes: the best pairs, NMS, the first 100 kept.

A pair is an anchor with a class. Shapes: B image, A anchor, K class, M candidate pair, D detection slot, R bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.limits import ANY, require
from gfl.model.anchors import Grid, cells_inside, padded_sizes
from gfl.model.nms import suppress, suppress_softly
from gfl.model.structures import Detections, Outputs
from gfl.tensors.boxes import boxes_from_distances
from gfl.tensors.distribution import gather_anchors, mean_and_std

Nms = Literal["hard", "soft_linear", "soft_gaussian"]

MOST_DETECTIONS = 100_000  # a picture: as many slots are made, whether or not they are filled


@dataclass(frozen=True)
class PredictConfig:
    """Thresholds, the sizes of the fixed-shape NMS, and two switches that reproduce the authors' post-processing."""

    score_threshold: float = 0.05  # a detection's score is above it (strictly), before it decays
    nms: Nms = "hard"  # a soft one lowers the scores of boxes that overlap a better one instead of dropping them
    nms_iou: float = 0.6  # an IoU above it (strictly) suppresses; 'soft_linear': from it on; 'soft_gaussian': unused
    class_agnostic: bool = False  # True: boxes of other classes take part in a box's NMS
    soft_sigma: float = 0.5  # of 'soft_gaussian': a score is multiplied by exp(-IoU^2 / sigma)
    soft_min_score: float = 0.05  # of both soft ones: a score that decays below it (strictly) goes
    max_detections: int = 100
    candidates: int = 1000  # pairs that enter NMS
    rounds: int = 16  # of 'hard'; exact once two rounds agree
    nms_pre: int = 0  # keep only so many anchors of a level, by best score; 0: all. No effect from `candidates` up
    keep_background: bool = False  # True: the background channel takes part, as in the authors' code
    keep_padding_cells: bool = False  # True: cells in the padding take part, as in the authors' code

    def __post_init__(self) -> None:
        require(self, nms_iou=(0, 1), max_detections=(1, MOST_DETECTIONS), rounds=(1, 1000), nms_pre=(0, ANY))
        require(self, candidates=(1, 10 * MOST_DETECTIONS))
        require(self, soft_sigma=(1e-3, 1e3), soft_min_score=(0, 1))
        if self.nms not in get_args(Nms):
            raise ValueError(f"PredictConfig.nms={self.nms!r}: expected one of {list(get_args(Nms))}")
        if self.candidates < self.max_detections:
            raise ValueError(f"candidates={self.candidates}: expected at least max_detections={self.max_detections}")
        if not 0.0 <= self.score_threshold < 1.0:
            raise ValueError(f"score_threshold={self.score_threshold}: expected 0 <= threshold < 1")


class Candidates(NamedTuple):
    """The M best pairs, by descending score."""

    boxes_xyxy: Tensor  # (B,M,4) px
    scores: Tensor  # (B,M)
    labels: Tensor  # int32 (B,M)
    edge_std: Tensor  # (B,M,4) px
    passing: Tensor  # float32 (B,): number of all pairs of the image above the score threshold


class _Best(NamedTuple):
    """What NMS leaves, best first, in D slots."""

    indices: Tensor  # int64 (B,D) among the candidates
    scores: Tensor  # (B,D), 0 from `kept` on
    kept: Tensor  # float32 (B,)
    complete: Tensor  # bool (B,) as of Detections


def detect(outputs: Outputs, image_sizes: Tensor, grid: Grid, num_classes: int, cfg: PredictConfig) -> Detections:
    """The head's outputs -> detections. image_sizes int32 (B,2): height, width of each picture on the canvas, px."""
    candidates = select_candidates(outputs, image_sizes, grid, num_classes, cfg)
    best = _suppress(candidates, cfg) if cfg.nms == "hard" else _suppress_softly(candidates, cfg)
    slot = torch.arange(best.indices.shape[1], dtype=torch.float32, device=best.indices.device)
    filled = slot < best.kept.unsqueeze(1)
    labels = torch.where(filled, candidates.labels.gather(1, best.indices), -1)
    index = best.indices.unsqueeze(-1).expand(-1, -1, 4)
    boxes = torch.where(filled.unsqueeze(-1), candidates.boxes_xyxy.gather(1, index), 0.0)
    edge_std = torch.where(filled.unsqueeze(-1), candidates.edge_std.gather(1, index), 0.0)
    detections = Detections(boxes, best.scores, labels, best.kept.int(), edge_std, best.complete.int())
    return _pad_slots(detections, cfg.max_detections)


def _suppress(candidates: Candidates, cfg: PredictConfig) -> _Best:
    """Greedy NMS. It is complete once its rounds settled, and all slots are filled or all pairs took part."""
    valid = candidates.scores > cfg.score_threshold
    keep, changed = suppress(candidates.boxes_xyxy, _groups(candidates, cfg), valid, cfg.nms_iou, cfg.rounds)
    best = (candidates.scores * keep).topk(min(cfg.max_detections, keep.shape[1]), dim=1)
    kept = keep.sum(dim=1, keepdim=True).clamp(0.0, float(cfg.max_detections))
    left_out = (candidates.passing.unsqueeze(1) - keep.shape[1]).clamp_min(0.0)
    complete = changed + torch.minimum(left_out, cfg.max_detections - kept) < 0.5
    return _Best(best.indices, best.values, kept.squeeze(1), complete.squeeze(1))


def _suppress_softly(candidates: Candidates, cfg: PredictConfig) -> _Best:
    """Soft-NMS. It is complete where all pairs took part, or none of the others could have come before the last slot.

    The others' scores are at most the worst candidate's.
    """
    M = candidates.scores.shape[1]
    indices, scores = suppress_softly(
        candidates.boxes_xyxy,
        torch.where(candidates.scores > cfg.score_threshold, candidates.scores, 0.0),
        _groups(candidates, cfg),
        iou_threshold=cfg.nms_iou,
        sigma=cfg.soft_sigma if cfg.nms == "soft_gaussian" else None,
        min_score=cfg.soft_min_score,
        selections=min(cfg.max_detections, M),
    )
    worst = candidates.scores[:, -1]
    complete = (candidates.passing <= M) | (worst <= scores[:, -1]) | (worst < cfg.soft_min_score)
    return _Best(indices, scores, (scores > 0).float().sum(dim=1), complete)


def _groups(candidates: Candidates, cfg: PredictConfig) -> Tensor:
    """int (B,M): boxes of one number suppress each other."""
    return torch.zeros_like(candidates.labels) if cfg.class_agnostic else candidates.labels


def select_candidates(
    outputs: Outputs, image_sizes: Tensor, grid: Grid, num_classes: int, cfg: PredictConfig
) -> Candidates:
    """The M best pairs. Each has one of the M anchors of best top score, so two small top-k suffice."""
    classes = outputs.scores.shape[2] if cfg.keep_background else num_classes
    scores_BAK = counted_scores(outputs, image_sizes, grid, classes, cfg)
    best_BA = scores_BAK.amax(dim=2)
    if cfg.nms_pre:
        inside = _best_of_levels(best_BA, grid, cfg.nms_pre)
        best_BA, scores_BAK = torch.where(inside, best_BA, 0.0), torch.where(inside.unsqueeze(-1), scores_BAK, 0.0)
    passing = (scores_BAK > cfg.score_threshold).float().sum(dim=(1, 2))
    anchors = best_BA.topk(min(cfg.candidates, best_BA.shape[1]), dim=1).indices
    pairs = scores_BAK.gather(1, anchors.unsqueeze(-1).expand(-1, -1, classes)).flatten(1)
    best = pairs.topk(min(cfg.candidates, pairs.shape[1]), dim=1)
    # flat index = row * classes + label. In float32, because exporters and NPUs divide integers by way of it; the half
    # keeps every quotient away from whole numbers, so that a division that rounds differently gives the same row.
    flat_index = best.indices.float()
    row = torch.floor((flat_index + 0.5) / classes)
    labels = (flat_index - row * classes).int()
    boxes, edge_std = decode(outputs.edge_logits, anchors, image_sizes, grid)
    index = row.long().unsqueeze(-1).expand(-1, -1, 4)
    return Candidates(boxes.gather(1, index), best.values, labels, edge_std.gather(1, index), passing)


def counted_scores(outputs: Outputs, image_sizes: Tensor, grid: Grid, classes: int, cfg: PredictConfig) -> Tensor:
    """Scores (B,A,classes) of the first channels, 0 in cells of the padding unless the settings keep these."""
    scores_BAK = outputs.scores[..., :classes]
    if cfg.keep_padding_cells:
        return scores_BAK
    return scores_BAK * cells_inside(grid, padded_sizes(image_sizes)).unsqueeze(-1)


def decode(edge_logits: Tensor, anchors: Tensor, image_sizes: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Boxes, clamped to the picture, and edge_std of chosen anchors: (B,A,E,R), int64 (B,M) -> two (B,M,4) px."""
    # A row of a table: ONNX has this as a Gather, and indexing as a GatherND, which fewer runtimes take.
    centres, strides = F.embedding(anchors, grid.centres_px), F.embedding(anchors, grid.strides.unsqueeze(1))
    return decode_at(gather_anchors(edge_logits, anchors), centres, strides, image_sizes)


def decode_at(edge_logits: Tensor, centres_px: Tensor, strides: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """`decode` of logits (B,M,E,R) whose anchors have these centres (...,M,2) and strides (...,M,1), px."""
    mean, std = mean_and_std(edge_logits)
    boxes = boxes_from_distances(centres_px, mean * strides)
    sizes = image_sizes.float()
    limits = torch.cat([sizes[:, 1:], sizes[:, :1]] * 2, dim=1).unsqueeze(1)  # (B,1,4): w, h, w, h
    return torch.minimum(boxes.clamp_min(0.0), limits), std * strides


def _pad_slots(detections: Detections, slots: int) -> Detections:
    """Add empty slots at the end where a small canvas has fewer pairs than `slots`."""
    missing = slots - detections.labels.shape[1]
    if missing == 0:
        return detections
    return detections._replace(
        boxes_xyxy=F.pad(detections.boxes_xyxy, (0, 0, 0, missing)),
        scores=F.pad(detections.scores, (0, missing)),
        labels=F.pad(detections.labels, (0, missing), value=-1),
        edge_std=F.pad(detections.edge_std, (0, 0, 0, missing)),
    )


def _best_of_levels(best_BA: Tensor, grid: Grid, nms_pre: int) -> Tensor:
    """bool (B,A): the nms_pre best anchors of each level, by their best score; all anchors of a smaller level."""
    parts = []
    for start, (rows, columns) in zip(grid.starts, grid.shapes_hw, strict=True):
        level = best_BA[:, start : start + rows * columns]
        if rows * columns > nms_pre:
            parts.append(level >= level.topk(nms_pre, dim=1).values[:, -1:])
        else:
            parts.append(torch.ones_like(level, dtype=torch.bool))
    return torch.cat(parts, dim=1)
