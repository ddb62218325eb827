"""Class-wise non-maximum suppression (NMS) with fixed shapes.

Greedy NMS is the fixed point of an iteration; soft-NMS takes a fixed number of boxes, one after the other. Shapes: B
image, M candidate box, D selection. With equal labels everywhere both are class-agnostic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfl.tensors.boxes import pairwise_iou


def suppress(
    boxes_xyxy: Tensor, labels: Tensor, valid: Tensor, iou_threshold: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """Class-wise greedy NMS of boxes that are sorted by descending score.

    It is the one solution of "kept = valid, and no kept box of the class before it overlaps". Each round evaluates the
    right side once, starting from `valid`; a round that changes nothing has found the solution. No more rounds are
    needed than the longest chain of suppressions has boxes.

    Args:
      boxes_xyxy: float (B,M,4), best first; any unit.
      labels: int (B,M); boxes of different labels do not suppress each other.
      valid: bool (B,M); the others neither stay nor suppress.
      iou_threshold: a box goes when its IoU with a better one exceeds this (strictly).
      rounds: number of iterations.

    Returns:
      kept, float32 (B,M), 1 or 0, and changed, float32 (B,1): 0 where the last round changed nothing, so that `kept`
      is exact, and 1 elsewhere.
    """
    M = boxes_xyxy.shape[1]
    order = torch.arange(M, dtype=torch.float32, device=boxes_xyxy.device)
    better = (order.unsqueeze(0) < order.unsqueeze(1)).float()  # [i, j]: j comes before i
    same_class = (labels.unsqueeze(2) == labels.unsqueeze(1)).float()
    overlaps = (pairwise_iou(boxes_xyxy) > iou_threshold).float()
    beats_BMM = overlaps * same_class * better  # products: more runtimes multiply numbers than join conditions
    start = valid.float().unsqueeze(-1)
    before = keep = start
    for _ in range(rounds):
        before, keep = keep, torch.relu(start - torch.bmm(beats_BMM, keep))
    return keep.squeeze(-1), (keep - before).abs().amax(dim=1)


def suppress_softly(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    iou_threshold: float,
    sigma: float | None,
    min_score: float,
    selections: int,
) -> tuple[Tensor, Tensor]:
    """Class-wise soft-NMS: the box of the highest score is taken, the scores of those that overlap it decay, and so on.

    Scores only decay, so the first D taken are the best D, best first, of as many as there are. For the same reason no
    box is dropped on the way: one below `min_score` is taken after all others, and changes none of them.

    Args:
      boxes_xyxy: float (B,M,4), any unit.
      scores: (B,M), of the boxes' dtype, from 0 to 1; those of 0 are not there.
      labels: int (B,M); boxes of different labels change nothing of each other.
      iou_threshold: from this IoU on (not strictly) a score decays by the factor 1 - IoU.
      sigma: in place of that, every score decays by exp(-IoU^2 / sigma); None: by the rule before.
      min_score: a box whose score decayed below it (strictly) goes; the very first stays whatever its score.
      selections: D, at most M.

    Returns:
      Indices, int64 (B,D), of the boxes in the order they were taken (the lowest of equal scores first), and their
      decayed scores (B,D), 0 from the first on that goes. A score that decays to 0 goes at any `min_score`.

    Reference:
      Bodla et al., Soft-NMS, arXiv 1704.04503, figure 2.
    """
    M = scores.shape[1]
    overlaps = pairwise_iou(boxes_xyxy)
    if sigma is None:
        decay_BMM = torch.where(overlaps >= iou_threshold, 1.0 - overlaps, 1.0)
    else:
        decay_BMM = torch.exp(overlaps * overlaps / -sigma)
    order = torch.arange(M, dtype=torch.float32, device=scores.device)
    decay_BMM = torch.where(labels.unsqueeze(2) == labels.unsqueeze(1), decay_BMM, 1.0)
    decay_BMM = torch.where(order.unsqueeze(0) == order.unsqueeze(1), 0.0, decay_BMM)  # no box is taken twice
    current = scores.unsqueeze(1)
    taken, decayed = [], []
    for _ in range(selections):  # five operators each, on M numbers
        taken.append(current.argmax(dim=2, keepdim=True))  # the first of equals
        decayed.append(current.amax(dim=2))
        current = current * decay_BMM.gather(1, taken[-1].expand(-1, -1, M))
    scores_BD = torch.cat(decayed, dim=1)
    stays = (scores_BD >= min_score) | (order[:selections] < 0.5)
    return torch.cat(taken, dim=1).squeeze(2), torch.where(stays, scores_BD, 0.0)
