"""QFL, DFL and GIoU (GFL, arXiv 2006.04388, sections 3.2-3.3) with fixed shapes.

Shapes: B image, A anchor, K class channel, G box slot, C candidate, N = G*C, E=4 edges, R bins.
The box losses are computed on the candidates of the assignment alone; those that are no positives have weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.limits import ANY, require
from gfl.model.anchors import Grid
from gfl.model.structures import Assignment, Batch, Outputs
from gfl.tensors.boxes import boxes_from_distances, distances_from_boxes, iou_and_giou
from gfl.tensors.distribution import bins_like, gather_anchors, integral


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (the paper's)."""

    qfl_beta: float = 2.0
    qfl_weight: float = 1.0
    giou_weight: float = 2.0
    dfl_weight: float = 0.25

    def __post_init__(self) -> None:
        require(self, qfl_beta=(0, ANY), qfl_weight=(0, ANY), giou_weight=(0, ANY), dfl_weight=(0, ANY))


class LossTerms(NamedTuple):
    """Unreduced losses, weights applied, not yet normalised."""

    qfl: Tensor  # float32 (B,A)
    giou: Tensor  # float32 (B,N)
    dfl: Tensor  # float32 (B,N)
    weight: Tensor  # float32 (B,N): the largest score of a positive's anchor, detached; 0 for other candidates
    positives: Tensor  # float32 (B,): number of positives of each image


def loss_terms(outputs: Outputs, assignment: Assignment, grid: Grid, batch: Batch, cfg: LossConfig) -> LossTerms:
    """The losses of every anchor (QFL) and every candidate (GIoU, DFL), before any sum (GFL section 3.3)."""
    B, G, C = assignment.anchors.shape
    index_BN = assignment.anchors.flatten(1).long()
    positive_BN = assignment.positive.flatten(1).float()
    strides = grid.strides[index_BN].unsqueeze(-1)
    centres = grid.centres_px[index_BN] / strides  # from here on, boxes are in strides
    targets = (batch.boxes_xyxy.unsqueeze(2).expand(B, G, C, 4).reshape(B, G * C, 4)) / strides
    logits_BNER = gather_anchors(outputs.edge_logits, index_BN)
    overlap, generalised = iou_and_giou(boxes_from_distances(centres, integral(logits_BNER)), targets)
    weight_BN = outputs.scores.detach().amax(dim=2).gather(1, index_BN) * positive_BN
    dfl_BN = dfl(logits_BNER, distances_from_boxes(centres, targets)).mean(dim=-1)
    quality = _quality_targets(outputs.scores, assignment, overlap.detach() * positive_BN, batch.labels)
    if outputs.class_logits is None:
        loss_BAK = qfl(outputs.scores, quality, cfg.qfl_beta)
    else:
        loss_BAK = qfl_of_logits(outputs.class_logits, quality, cfg.qfl_beta)
    return LossTerms(
        qfl=cfg.qfl_weight * loss_BAK.sum(dim=2) * assignment.counted.float(),
        giou=cfg.giou_weight * weight_BN * (1.0 - generalised),
        dfl=cfg.dfl_weight * weight_BN * dfl_BN,
        weight=weight_BN,
        positives=positive_BN.sum(dim=1),
    )


def qfl(scores: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Quality focal loss of probabilities: cross-entropy BCE(p, s) times |s - p|^beta, through which gradients flow.

    Args:
      scores: float p in [0,1], any shape.
      targets: float s in [0,1], the same shape: IoU with the box at the positive's label, else 0.
      beta: exponent of the modulating factor.

    Returns:
      The loss of each element, not reduced; at s = 0 the focal loss of a negative. NaN where p or s is NaN.

    Reference:
      Li et al., Generalized Focal Loss, arXiv 2006.04388, eq. 5.

    >>> qfl(torch.tensor([0.9, 0.5]), torch.tensor([0.9, 0.0]), beta=2.0)
    tensor([0.0000, 0.1733])
    """
    modulating = (targets - scores).abs().pow(beta)
    # The cross-entropy refuses NaN (on CUDA it ends the process): as 0 they pass, and `modulating` makes the loss NaN.
    scores, targets = scores.nan_to_num(nan=0.0), targets.nan_to_num(nan=0.0)
    return F.binary_cross_entropy(scores, targets, reduction="none") * modulating


def qfl_of_logits(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """`qfl` of sigmoid(logits), with a gradient where the probability itself would round to 0 or 1.

    >>> qfl_of_logits(torch.tensor([40.0]), torch.tensor([0.0]), beta=2.0)
    tensor([40.])
    """
    modulating = (targets - logits.sigmoid()).abs().pow(beta)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * modulating


def dfl(edge_logits: Tensor, dist: Tensor) -> Tensor:
    """Distribution focal loss: cross-entropy to the two bins around a distance, weighted by how near they are.

    Args:
      edge_logits: float (...,E,R), before softmax; R = reg_max + 1 bins.
      dist: float (...,E), the true edge distances in strides; clamped to [0, reg_max - 0.1].

    Returns:
      The loss of each edge, (...,E), not reduced.

    Reference:
      Li et al., Generalized Focal Loss, arXiv 2006.04388, eq. 6.

    >>> dfl(torch.zeros(1, 17), torch.tensor([4.3]))  # equal logits: log(17) wherever the edge is
    tensor([2.8332])
    """
    reg_max = edge_logits.shape[-1] - 1
    distances = dist.clamp(0.0, reg_max - 0.1).unsqueeze(-1)
    # 1 - |y - bin| gives the bins left and right of y the weights right - y and y - left; all others are clamped to 0.
    target = (1.0 - (distances - bins_like(edge_logits)).abs()).clamp_min(0.0)
    return -(edge_logits.log_softmax(dim=-1) * target).sum(dim=-1)


def _quality_targets(scores: Tensor, assignment: Assignment, quality_BN: Tensor, labels: Tensor) -> Tensor:
    """The targets of QFL, (B,A,K): IoU at the anchor and label of each positive, 0 elsewhere.

    Candidates that are no positives write to one slot past the end, which is cut off.
    """
    B, A, K = scores.shape
    slot = assignment.anchors * K + labels.unsqueeze(2)
    slot_BN = torch.where(assignment.positive, slot, A * K).flatten(1).long()
    targets = torch.zeros((B, A * K + 1), device=scores.device).scatter(1, slot_BN, quality_BN)
    return targets[:, :-1].view(B, A, K)
