"""Class-wise non-maximum suppression (NMS) with fixed shapes: greedy NMS as the fixed point of an iteration."""

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
      kept, bool (B,M), and settled, bool (B,): whether the last round changed nothing, so that `kept` is exact.
    """
    M = boxes_xyxy.shape[1]
    order = torch.arange(M, dtype=torch.float32, device=boxes_xyxy.device)
    better = order.unsqueeze(0) < order.unsqueeze(1)  # [i, j]: j comes before i
    same_class = labels.unsqueeze(2) == labels.unsqueeze(1)
    overlaps = pairwise_iou(boxes_xyxy) > iou_threshold
    beats_BMM = (overlaps & same_class & better).float()
    start = valid.float().unsqueeze(-1)
    before = keep = start
    for _ in range(rounds):
        before, keep = keep, torch.where(torch.bmm(beats_BMM, keep) > 0.5, 0.0, start)
    changed = (keep - before).abs().flatten(1).amax(dim=1)
    return keep.squeeze(-1) > 0.5, changed < 0.5
