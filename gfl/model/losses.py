"""QFL, DFL and GIoU (GFL, arXiv 2006.04388, sections 3.2-3.3) with fixed shapes.

Shapes: B image, A anchor, K class channel, G box slot, C candidate, N = G*C, E=4 edges, R bins.
The box losses are computed on the candidates of the assignment alone; what a box does not own has weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gfl.model.anchors import Grid
from gfl.model.structures import Assignment, Outputs
from gfl.tensors.boxes import boxes_from_distances, distances_from_boxes, iou_and_giou
from gfl.tensors.distribution import bins_like, integral


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (the paper's)."""

    qfl_beta: float = 2.0
    qfl_weight: float = 1.0
    giou_weight: float = 2.0
    dfl_weight: float = 0.25


class LossTerms(NamedTuple):
    """Unreduced losses, weights applied, not yet normalised."""

    qfl: Tensor  # float32 (B,A)
    giou: Tensor  # float32 (B,N)
    dfl: Tensor  # float32 (B,N)
    weight: Tensor  # float32 (B,N): a positive's best detached score, else 0
    positives: Tensor  # float32 (B,): number of positives of each image


def loss_terms(
    outputs: Outputs, assignment: Assignment, grid: Grid, boxes_xyxy: Tensor, labels: Tensor, cfg: LossConfig
) -> LossTerms:
    """Losses of every anchor and candidate. boxes_xyxy (B,G,4) px, labels int32 (B,G)."""
    B, G, C = assignment.anchors.shape
    index_BN = assignment.anchors.flatten(1).long()
    positive_BN = assignment.positive.flatten(1).float()
    strides = grid.strides[index_BN].unsqueeze(-1)
    centres = grid.centres_px[index_BN] / strides  # from here on, boxes are in strides
    targets = (boxes_xyxy.unsqueeze(2).expand(B, G, C, 4).reshape(B, G * C, 4)) / strides
    logits_BNER = _gather_anchors(outputs.edge_logits, index_BN)
    overlap, generalised = iou_and_giou(boxes_from_distances(centres, integral(logits_BNER)), targets)
    weight_BN = outputs.scores.detach().amax(dim=2).gather(1, index_BN) * positive_BN
    dfl_BN = dfl(logits_BNER, distances_from_boxes(centres, targets)).mean(dim=-1)
    quality = _quality_targets(outputs.scores, assignment, overlap.detach() * positive_BN, labels)
    return LossTerms(
        qfl=cfg.qfl_weight * qfl(outputs.scores, quality, cfg.qfl_beta).sum(dim=2) * assignment.counted.float(),
        giou=cfg.giou_weight * weight_BN * (1.0 - generalised),
        dfl=cfg.dfl_weight * weight_BN * dfl_BN,
        weight=weight_BN,
        positives=positive_BN.sum(dim=1),
    )


def qfl(scores: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Quality focal loss on probabilities, element-wise (GFL eq. 5): BCE(p, s) |s - p|^beta, not detached.

    scores and targets in [0,1], same shape; with s = 0 this is the focal negative BCE(p, 0) p^beta.
    """
    modulating = (targets - scores).abs().pow(beta)
    # The cross-entropy refuses NaN (on CUDA it ends the process): as 0 they pass, and `modulating` makes the loss NaN.
    scores, targets = scores.nan_to_num(nan=0.0), targets.nan_to_num(nan=0.0)
    return F.binary_cross_entropy(scores, targets, reduction="none") * modulating


def dfl(edge_logits: Tensor, dist: Tensor) -> Tensor:
    """Distribution focal loss (GFL eq. 6): cross-entropy to the two bins around a distance.

    (...,E,R), (...,E) -> (...,E). dist is in strides, clamped to [0, reg_max - 0.1]. The hat function 1 - |y - bin| is
    exactly the two weights left + 1 - y and y - left, and 0 at every other bin.
    """
    reg_max = edge_logits.shape[-1] - 1
    distances = dist.clamp(0.0, reg_max - 0.1).unsqueeze(-1)
    target = (1.0 - (distances - bins_like(edge_logits)).abs()).clamp_min(0.0)
    return -(edge_logits.log_softmax(dim=-1) * target).sum(dim=-1)


def _gather_anchors(values_BAER: Tensor, index_BN: Tensor) -> Tensor:
    B, _, E, R = values_BAER.shape
    index = index_BN.unsqueeze(-1).expand(B, index_BN.shape[1], E * R)
    return rearrange(values_BAER.flatten(2).gather(1, index), "b n (e r) -> b n e r", e=E)


def _quality_targets(scores: Tensor, assignment: Assignment, quality_BN: Tensor, labels: Tensor) -> Tensor:
    """IoU targets at (owned anchor, label of its box), 0 elsewhere. -> (B,A,K)

    Candidates that own nothing write to a slot past the end, which is cut off.
    """
    B, A, K = scores.shape
    slot = assignment.anchors * K + labels.unsqueeze(2)
    slot_BN = torch.where(assignment.positive, slot, A * K).flatten(1).long()
    targets = torch.zeros((B, A * K + 1), device=scores.device).scatter(1, slot_BN, quality_BN)
    return targets[:, :-1].view(B, A, K)
