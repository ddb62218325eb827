"""Pictures on one sheet, for people to look at: what training is fed, and truth beside detections.

Pictures are uint8 (H,W,3) RGB. Letters: G box slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.transforms import Image
from gfl.report.draw import draw

CELL_PX = 480  # the longer side of a picture on a sheet
GAP_PX = 8
GROUND = 245  # grey of the sheet
QUALITY = 85  # of a JPEG
HATCH = (225, 190)  # greys of what is no picture: padding


class Fed(NamedTuple):
    """A picture of a batch as the network gets it, and its boxes."""

    image: NDArray[np.uint8]  # (3,H,W) RGB, zeros where there is no picture
    size_hw: tuple[int, int]  # px of the picture inside; (0,0) of a blank
    boxes_xyxy: NDArray[np.float32]  # (G,4) canvas px
    labels: NDArray[np.int32]  # (G,)


def fed_picture(fed: Fed, names: Sequence[str]) -> Image:
    """The canvas with its boxes; what is padding is hatched, and so is a blank."""
    canvas = np.ascontiguousarray(fed.image.transpose(1, 2, 0))
    height, width = canvas.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    padding = (rows >= fed.size_hw[0]) | (columns >= fed.size_hw[1])
    stripes = np.where((rows + columns) // 8 % 2 == 0, *HATCH).astype(np.uint8)
    canvas[padding] = stripes[padding, None]
    return draw(canvas, fed.boxes_xyxy, None, fed.labels, [names[label] for label in fed.labels.tolist()])


def sheet(pictures: Sequence[Image], columns: int | None = None, cell_px: int = CELL_PX) -> Image:
    """Pictures in rows, each shrunk so that its longer side is at most `cell_px`."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    small = [shrunk(picture, cell_px) for picture in pictures]
    rows = [small[start : start + columns] for start in range(0, len(small), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    widths = [max(row[column].shape[1] for row in rows if column < len(row)) for column in range(len(rows[0]))]
    size_hw = sum(heights) + GAP_PX * (len(rows) - 1), sum(widths) + GAP_PX * (len(widths) - 1)
    drawn = np.full((*size_hw, 3), GROUND, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for picture, width in zip(row, widths, strict=False):
            drawn[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += width + GAP_PX
        top += height + GAP_PX
    return drawn


def shrunk(picture: Image, longest_px: int) -> Image:
    """A picture whose longer side is at most so many px."""
    scale = shrinkage(picture, longest_px)
    if scale == 1:
        return picture
    height, width = (max(1, round(scale * side)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def shrinkage(picture: Image, longest_px: int) -> float:
    """What `shrunk` multiplies the sides of a picture, and so its boxes, by. Boxes are drawn after it: lines and
    letters that are shrunk with a large picture cannot be read."""
    return min(1.0, longest_px / float(max(picture.shape[:2])))


def jpeg(picture: Image, quality: int = QUALITY) -> bytes:
    """A picture as the bytes of a JPEG."""
    return cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
