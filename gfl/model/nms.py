"""Non-maximum suppression with fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from gfl.tensors.boxes import pairwise_iou


def suppress(
    boxes_xyxy: Tensor, labels: Tensor, valid: Tensor, iou_threshold: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """Class-wise greedy NMS of pairs sorted by score: bool (B,M) kept, bool (B,) settled.

    Greedy NMS is the one solution of "kept = valid and no better kept box of the class overlaps". Iterated from
    `valid`, it is reached once a round changes nothing; the longest chain of suppressions bounds the rounds.
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
