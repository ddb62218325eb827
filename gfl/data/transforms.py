"""From a decoded picture to a resized and changed one on its canvas, exactly as the reference's pipeline.

numpy and OpenCV only: training, evaluation and `infer/` share this file. Pictures are uint8 (H,W,3) RGB, sizes
(height, width). The reference is the authors' code: mmdetection's Resize, RandomFlip and Pad, over mmcv and OpenCV.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
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


def place_on_canvas(image: Image, planes: Image) -> None:
    """Write a resized picture (h,w,3) into the top left corner of a canvas (3,H,W), zeros beside and below it.

    Straight from interleaved colours to planes, in one pass and without the interpreter's lock.
    """
    cv2.mixChannels([image], _corner(planes, (image.shape[0], image.shape[1])), [0, 0, 1, 1, 2, 2])


def _corner(planes: Image, size_hw: tuple[int, int]) -> list[Image]:
    """The parts of a canvas (3,H,W) that hold a picture, a colour each; what is beside and below them becomes zero."""
    height, width = size_hw
    planes[:, height:] = 0
    planes[:, :height, width:] = 0
    return [plane[:height, :width] for plane in planes]


def change_onto(
    image: Image,
    size_hw: tuple[int, int],
    planes: Image,
    *,
    flip: bool = False,
    flip_vertical: bool = False,
    brightness: float = 1.0,
    contrast: float = 1.0,
) -> None:
    """Resize a picture into the top left corner of a canvas (3,H,W), and mirror and jitter it there.

    flip: left and right; flip_vertical: top and bottom. The bytes are those of one change of the whole picture after an
    other. A picture that grows is divided into its colours before, when it is small, and needs no copy afterwards.
    """
    height, width = size_hw
    grows = height * width > image.shape[0] * image.shape[1]
    if grows and resizes_colours_alike():
        resize_colours(image, size_hw, planes)
    else:
        place_on_canvas(resize(image, size_hw), planes)
    corner = [plane[:height, :width] for plane in planes]
    if flip or flip_vertical:
        for part in corner:
            cv2.flip(part, -1 if flip and flip_vertical else int(flip), dst=part)
    if brightness != 1.0 or contrast != 1.0:
        mean = sum(cv2.sumElems(part)[0] for part in corner) / (3 * height * width)
        table = jitter_table(mean, brightness, contrast)
        for part in corner:
            cv2.LUT(part, table, dst=part)


def resize_colours(image: Image, size_hw: tuple[int, int], planes: Image) -> None:
    """Resize a picture's colours one by one, each into the top left corner of its plane, zeros beside and below it."""
    colours = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(colours))
    for colour, part in zip(colours, _corner(planes, size_hw), strict=True):
        cv2.resize(colour, (size_hw[1], size_hw[0]), dst=part, interpolation=cv2.INTER_LINEAR)


@cache
def resizes_colours_alike() -> bool:
    """Whether OpenCV enlarges the colours of a picture one by one to the same bytes as together.

    Its own code does. Builds for some processors hold their vendor's, which may round one of the two otherwise.
    """
    noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)
    for height, width in ((96, 160), (81, 133), (48, 160), (192, 320)):
        together, one_by_one = np.empty((2, 3, height, width), np.uint8)
        place_on_canvas(resize(noise, (height, width)), together)
        resize_colours(noise, (height, width), one_by_one)
        if not np.array_equal(together, one_by_one):
            return False
    return True


def jitter_table(mean: float, brightness: float, contrast: float) -> Image:
    """(256,): each level of a picture of this mean times the brightness, spread about the new mean by the contrast."""
    mean *= brightness
    levels = (np.arange(256) * brightness - mean) * contrast + mean
    table: Image = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return table
