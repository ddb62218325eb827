"""Boxes in NumPy: on their way with a picture that is resized and mirrored, and how far they overlap.

Boxes are (N,4) xyxy px, sizes (height, width). Source: the authors' code (mmdetection's Resize and RandomFlip).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]

SAME_OBJECT_IOU = 0.5  # two boxes that share more than this are taken as of one object where they are shown


def scale_factors(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> NDArray[np.float32]:
    """(2,) float32: new over old height, new over old width (they differ by rounding)."""
    return np.array([to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]], dtype=np.float32)


def scale_boxes(boxes_xyxy: Boxes, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Boxes:
    """Boxes (G,4) of a picture of size from_hw, on the picture resized to to_hw, clipped to it."""
    scale_h, scale_w = scale_factors(from_hw, to_hw)
    scaled = boxes_xyxy * np.array([scale_w, scale_h, scale_w, scale_h], dtype=np.float32)
    limit = np.array([to_hw[1], to_hw[0], to_hw[1], to_hw[0]], dtype=np.float32)
    return np.clip(scaled, np.float32(0), limit).astype(np.float32, copy=False)


def flip_boxes_horizontal(boxes_xyxy: Boxes, width: int) -> Boxes:
    """Boxes (G,4) of the mirrored picture: x' = width - x."""
    mirrored = boxes_xyxy.copy()
    mirrored[:, [0, 2]] = np.float32(width) - boxes_xyxy[:, [2, 0]]
    return mirrored


def flip_boxes_vertical(boxes_xyxy: Boxes, height: int) -> Boxes:
    """Boxes (G,4) of the picture upside down: y' = height - y."""
    mirrored = boxes_xyxy.copy()
    mirrored[:, [1, 3]] = np.float32(height) - boxes_xyxy[:, [3, 1]]
    return mirrored


def distinct_boxes(boxes_xyxy: NDArray[np.floating], iou: float) -> NDArray[np.bool_]:
    """(D,4), best first -> (D,) which boxes overlap no better one that stays by more than `iou`: greedy NMS."""
    overlaps = np.tril(pairwise_iou(boxes_xyxy, boxes_xyxy) > iou, k=-1)  # [i, j]: j is better than i
    kept = np.zeros(len(boxes_xyxy), np.bool_)
    for i in range(len(kept)):
        kept[i] = not (overlaps[i] & kept).any()
    return kept


def pairwise_iou(a_xyxy: NDArray[np.floating], b_xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
    """(A,4), (B,4) -> (A,B) intersection over union of every two boxes."""
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0.0, None).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-6), dtype=np.float64)
