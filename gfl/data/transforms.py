"""From a picture file to a resized picture and its boxes, exactly as the reference's pipeline.

numpy and OpenCV only: training, evaluation and `infer/` share this file. Pictures are uint8 (H,W,3) RGB, boxes float32
(G,4) xyxy px, sizes (height, width). Source: reference.md, Recipe.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Ints = NDArray[np.int64]


def resized_sizes(sizes_hw: Ints, short_sides: Ints | int, long_side: int) -> Ints:
    """(N,2) sizes -> (N,2) sizes of the resized pictures; short_sides (N,) or one for all.

    The reference's rule: the largest keep-ratio size with no side above long_side and the shorter one not above
    short_side; each new side is int(side * scale + 0.5).
    """
    sides = sizes_hw.astype(np.float64)
    scale = np.minimum(long_side / sides.max(axis=1), np.asarray(short_sides) / sides.min(axis=1))
    new_sides: Ints = (sides * scale[:, None] + 0.5).astype(np.int64)
    return new_sides.clip(min=1)


def resized_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """`resized_sizes` for one picture: (height, width) px."""
    size = resized_sizes(np.array([[height, width]], dtype=np.int64), short_side, long_side)[0]
    return int(size[0]), int(size[1])


def resize(image: Image, size_hw: tuple[int, int]) -> Image:
    """Resize to (height, width) with OpenCV's bilinear interpolation, as the reference."""
    if image.shape[:2] == size_hw:
        return image
    return np.asarray(cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def scale_factors(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> NDArray[np.float32]:
    """(2,) float32: new over old height, new over old width (they differ by rounding)."""
    return np.array([to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]], dtype=np.float32)


def scale_boxes(boxes_xyxy: Boxes, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Boxes:
    """Boxes (G,4) of a picture of size from_hw, on the picture resized to to_hw, clipped to it."""
    scale_h, scale_w = scale_factors(from_hw, to_hw)
    scaled = boxes_xyxy * np.array([scale_w, scale_h, scale_w, scale_h], dtype=np.float32)
    limit = np.array([to_hw[1], to_hw[0], to_hw[1], to_hw[0]], dtype=np.float32)
    return np.clip(scaled, np.float32(0), limit).astype(np.float32, copy=False)


def flip_horizontal(image: Image) -> Image:
    """Mirror left and right."""
    return np.asarray(cv2.flip(image, 1), dtype=np.uint8)  # 6 times as fast as numpy's


def flip_vertical(image: Image) -> Image:
    """Mirror top and bottom."""
    return np.asarray(cv2.flip(image, 0), dtype=np.uint8)


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


def jitter(image: Image, brightness: float, contrast: float) -> Image:
    """Multiply by the brightness factor, then spread about the new mean by the contrast factor; 1 changes nothing."""
    if brightness == 1.0 and contrast == 1.0:
        return image
    mean = brightness * float(image.mean())
    table = (np.arange(256) * brightness - mean) * contrast + mean
    return np.asarray(cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)), dtype=np.uint8)
