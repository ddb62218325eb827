"""Boxes: IoU, GIoU, and corners to edge distances and back.

`_xyxy` is (x1, y1, x2, y2); `dist` is (left, top, right, bottom) from a centre. Any unit, the same for all arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

AREA_FLOOR = 1e-6  # least area of a union or an enclosing box, as in the authors' code: a maximum, not an addition


def area(boxes_xyxy: Tensor) -> Tensor:
    """Width times height: (...,4) -> (...); negative where one of them is."""
    size = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return size[..., 0] * size[..., 1]


def intersection(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Area that two boxes share: (...,4), (...,4), broadcast -> (...)."""
    top_left = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    size = (bottom_right - top_left).clamp_min(0.0)
    return size[..., 0] * size[..., 1]


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union: (...,4), (...,4), broadcast -> (...) in [0,1]."""
    shared = intersection(a_xyxy, b_xyxy)
    return shared / (area(a_xyxy) + area(b_xyxy) - shared).clamp_min(AREA_FLOOR)


def pairwise_iou(boxes_xyxy: Tensor) -> Tensor:
    """`iou` of every two boxes of an image, bit for bit: (B,M,4) -> (B,M,M).

    Coordinates come before boxes here: ONNX Runtime broadcasts along the last axis, and is more than 20 times as slow
    when that axis has two elements.
    """
    corners = boxes_xyxy.transpose(1, 2)
    top_left = torch.maximum(corners[:, :2].unsqueeze(3), corners[:, :2].unsqueeze(2))
    bottom_right = torch.minimum(corners[:, 2:].unsqueeze(3), corners[:, 2:].unsqueeze(2))
    size = (bottom_right - top_left).clamp_min(0.0)
    shared = size[:, 0] * size[:, 1]
    area_BM = area(boxes_xyxy)
    return shared / (area_BM.unsqueeze(2) + area_BM.unsqueeze(1) - shared).clamp_min(AREA_FLOOR)


def iou_and_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and generalised IoU: the IoU less the share of the enclosing box that is in neither box.

    Args:
      a_xyxy: float (...,4).
      b_xyxy: float (...,4), broadcast against a_xyxy; the same unit.

    Returns:
      IoU in [0,1] and GIoU in [-1,1], both (...). The GIoU loss is 1 - GIoU.

    Reference:
      Rezatofighi et al., Generalized Intersection over Union, arXiv 1902.09630, algorithm 1.

    >>> iou_and_giou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([[0.0, 0.0, 2.0, 1.0], [4.0, 0.0, 6.0, 2.0]]))
    (tensor([0.5000, 0.0000]), tensor([ 0.5000, -0.3333]))
    """
    shared = intersection(a_xyxy, b_xyxy)
    union = (area(a_xyxy) + area(b_xyxy) - shared).clamp_min(AREA_FLOOR)
    top_left = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    size = (bottom_right - top_left).clamp_min(0.0)
    enclosing = (size[..., 0] * size[..., 1]).clamp_min(AREA_FLOOR)
    overlap = shared / union
    return overlap, overlap - (enclosing - union) / enclosing


def boxes_from_distances(centres: Tensor, dist: Tensor) -> Tensor:
    """Edge distances -> corners: (...,2), (...,4) -> (...,4) xyxy, in the same unit."""
    return torch.cat([centres - dist[..., :2], centres + dist[..., 2:]], dim=-1)


def distances_from_boxes(centres: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Corners -> edge distances, negative where the centre lies outside: (...,2), (...,4) -> (...,4)."""
    return torch.cat([centres - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - centres], dim=-1)
