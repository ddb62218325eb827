"""ATSS (arXiv 1912.02424) with fixed shapes: which anchors are the positives of each box.

Shapes: B image, G box slot, L level, A anchor, C candidate (levels x topk), W window cell, I ignored-box slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfl.limits import require
from gfl.model.anchors import SCALE, Grid, cells_inside
from gfl.model.structures import Assignment, Batch
from gfl.tensors.boxes import area, distances_from_boxes, intersection, iou

INSIDE_PX = 0.01  # a positive's centre lies farther than this inside the box (ATSS code, strict)
FAR = 1e8  # squared distance of an anchor that an ignored box covers, beyond that of any other on a canvas
NOWHERE = 1e12  # squared distance of a cell that does not exist or lies outside the image's own padded shape


@dataclass(frozen=True)
class ATSSConfig:
    """Candidates a level, and whether anchors in crowd boxes are ignored."""

    topk: int = 9  # candidates of a box on each level: the nearest anchors
    ignore_iof: float = -1.0  # > 0: anchors with more of their own area in a crowd box count in no loss; -1: off

    def __post_init__(self) -> None:
        require(self, ignore_iof=(-1, 1))
        if not 1 <= self.topk <= 9:
            raise ValueError(f"topk={self.topk}: expected 1..9 (the window of nearest cells is 9x9)")


def assign(grid: Grid, padded_hw: Tensor, batch: Batch, cfg: ATSSConfig) -> Assignment:
    """Adaptive training sample selection: find the positives of each box.

    These are the candidates whose centre lies inside the box and whose IoU with it reaches the mean plus standard
    deviation of all its candidates' IoUs.

    Args:
      grid: the anchors of the canvas.
      padded_hw: (B,2), each image's own padded height and width, px; anchors beyond it are left out.
      batch: boxes, and crowd boxes to ignore, with their masks.
      cfg: with ignore_iof > 0, anchors in crowd boxes are no candidates and count in no loss.

    Reference:
      Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection, arXiv 1912.02424, section 3.2.
    """
    boxes_xyxy = batch.boxes_xyxy
    inside_BA = cells_inside(grid, padded_hw) > 0.0
    if cfg.ignore_iof > 0:
        ignored_BA = _covered_by_ignored(grid, batch.ignored_xyxy, batch.ignored_mask, cfg.ignore_iof)
        anchors_BGC, exists_BGC = nearest_of_all(grid, inside_BA, ignored_BA, boxes_xyxy, cfg.topk)
    else:
        anchors_BGC, exists_BGC = nearest_in_window(grid, padded_hw, boxes_xyxy, cfg.topk)
    index_BGC = anchors_BGC.long()
    iou_BGC, passes = claims(grid, index_BGC, exists_BGC, boxes_xyxy)
    positive = _one_box_an_anchor(index_BGC, iou_BGC, passes & batch.box_mask.unsqueeze(2), grid.num_anchors)
    counted = inside_BA
    if cfg.ignore_iof > 0:
        assigned = torch.zeros_like(inside_BA, dtype=torch.float32)
        assigned = assigned.scatter_add(1, index_BGC.flatten(1), positive.float().flatten(1)) > 0
        counted = inside_BA & (assigned | ~ignored_BA)
    return Assignment(anchors_BGC, positive, counted)


def claims(grid: Grid, index_BGC: Tensor, exists_BGC: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """The IoU of each box with its candidates, and which of them it claims: (B,G,C) both.

    index_BGC, int64, and exists_BGC: of `nearest_in_window`. boxes_xyxy: (B,G,4) px.
    """
    centres_px = grid.centres_px[index_BGC]
    half_side = (grid.strides[index_BGC] * (SCALE / 2)).unsqueeze(-1)
    anchor_boxes = torch.cat([centres_px - half_side, centres_px + half_side], dim=-1)
    boxes_BG14 = boxes_xyxy.unsqueeze(2)
    iou_BGC = iou(anchor_boxes, boxes_BG14)
    centre_inside = distances_from_boxes(centres_px, boxes_BG14).amin(dim=-1) > INSIDE_PX
    return iou_BGC, (iou_BGC >= _threshold(iou_BGC, exists_BGC)) & centre_inside & exists_BGC


def nearest_in_window(grid: Grid, padded_hw: Tensor, boxes_xyxy: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """The topk anchors of each level nearest to a box's centre: int32 (B,G,C) indices, bool (B,G,C) whether they exist.

    On a regular grid the 9 nearest cells lie in the 9x9 window of nearest rows and columns, clamped to the valid
    cells, so arithmetic and a top-k over 81 cells replace a top-k over all anchors.
    """
    centre_BG1 = ((boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2).unsqueeze(2)  # x, y in px
    strides_L1 = grid.level_strides.unsqueeze(1)
    cells_BL = torch.ceil(padded_hw.float().flip(1).unsqueeze(1) / strides_L1)  # valid columns, rows
    cells_B1L = torch.minimum(cells_BL, grid.level_shapes.flip(1)).unsqueeze(1)
    first = torch.round(centre_BG1 / strides_L1) - 4
    first = torch.minimum(first, cells_B1L - 9).clamp_min(0.0)  # (B,G,L,2): the window's first column and row
    offsets = torch.arange(9, dtype=torch.float32, device=boxes_xyxy.device)
    column_row = first.unsqueeze(-1) + offsets  # (B,G,L,2,9)
    delta = column_row * strides_L1.unsqueeze(-1) - centre_BG1.unsqueeze(-1)
    squared = torch.where(column_row < cells_B1L.unsqueeze(-1), delta * delta, NOWHERE)
    distance_BGLW = (squared[..., 1, :, None] + squared[..., 0, None, :]).flatten(3)
    nearest = (-distance_BGLW).topk(topk, dim=-1)
    # Which row and column of the window, in float: exact, and no integer arithmetic on int64 top-k indices.
    cell = nearest.indices.float()
    row = torch.floor(cell / 9)
    position = first.unsqueeze(-1) + torch.stack([cell - row * 9, row], dim=3)  # (B,G,L,2,topk)
    index = grid.level_starts.unsqueeze(1) + position[..., 1, :] * grid.level_shapes[:, 1:] + position[..., 0, :]
    exists = -nearest.values < NOWHERE
    return torch.where(exists, index, 0.0).int().flatten(2), exists.flatten(2)


def nearest_of_all(
    grid: Grid, inside_BA: Tensor, ignored_BA: Tensor, boxes_xyxy: Tensor, topk: int
) -> tuple[Tensor, Tensor]:
    """As `nearest_in_window`, but over all anchors and without the ignored ones, which may fill the whole window."""
    centre_BG1 = ((boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2).unsqueeze(2)
    delta = grid.centres_px - centre_BG1
    distance_BGA = (delta * delta).sum(dim=-1)
    distance_BGA = torch.where(ignored_BA.unsqueeze(1), FAR, distance_BGA)
    distance_BGA = torch.where(inside_BA.unsqueeze(1), distance_BGA, NOWHERE)
    anchors, exists = [], []
    for start, (rows, columns) in zip(grid.starts, grid.shapes_hw, strict=True):
        level = -distance_BGA[..., start : start + rows * columns]
        nearest = level.topk(min(topk, rows * columns), dim=-1)
        exists.append(-nearest.values < NOWHERE)
        anchors.append(torch.where(exists[-1], nearest.indices.int() + start, 0))
    return torch.cat(anchors, dim=2), torch.cat(exists, dim=2)


def _threshold(iou_BGC: Tensor, exists: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation of the IoUs of a box's existing candidates, (B,G,1)."""
    weight = exists.float()
    count = weight.sum(dim=2, keepdim=True)
    mean = (iou_BGC * weight).sum(dim=2, keepdim=True) / count.clamp_min(1.0)
    squared = (iou_BGC - mean).square() * weight
    return mean + (squared.sum(dim=2, keepdim=True) / (count - 1.0).clamp_min(1.0)).sqrt()


def _one_box_an_anchor(index_BGC: Tensor, iou_BGC: Tensor, passes: Tensor, num_anchors: int) -> Tensor:
    """bool (B,G,C): an anchor that several boxes claim goes to the one of larger IoU, then of lower index.

    The scatter has no conflicts: each box has a row of its own, and what does not pass is written to one slot past
    the last anchor.
    """
    B, G, C = index_BGC.shape
    slot_BGC = torch.where(passes, index_BGC, num_anchors)
    claims = torch.full((B, G, num_anchors + 1), -1.0, device=iou_BGC.device)
    # In place: with 1,000 boxes a picture the claims are its largest tensor, of which this makes no second one.
    owner_BA = claims.scatter_(2, slot_BGC, iou_BGC).argmax(dim=1)  # argmax takes the first of equals
    owner_BGC = owner_BA.gather(1, slot_BGC.flatten(1)).view(B, G, C)
    box = torch.arange(G, dtype=torch.int32, device=iou_BGC.device).view(1, G, 1)
    return passes & (owner_BGC.int() == box)


def _covered_by_ignored(grid: Grid, ignored_xyxy: Tensor, ignored_mask: Tensor, iof_threshold: float) -> Tensor:
    """bool (B,A): anchors with more than this share of their own area inside one ignored box."""
    half_side = (grid.strides * (SCALE / 2)).unsqueeze(-1)
    anchor_boxes = torch.cat([grid.centres_px - half_side, grid.centres_px + half_side], dim=-1)
    share_BIA = intersection(anchor_boxes, ignored_xyxy.unsqueeze(2)) / area(anchor_boxes)
    return ((share_BIA > iof_threshold) & ignored_mask.unsqueeze(2)).any(dim=1)
