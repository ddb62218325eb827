"""What the numbers of the boxes are: x, y, width and height in px, or something else that tools write into `bbox`."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Form = Literal["xywh", "normalised", "xyxy", "swapped"]

REACH_PX, REACH_SHARE = 2.0, 0.01  # a box reaches beyond its picture from so many px and such a share of the side on
SUSPICIOUS = 0.25  # share of the boxes that reach beyond their pictures from which another form is tried
MENDS: dict[Form, tuple[str, str]] = {  # what they look like, and how to mend them
    "normalised": ("shares of the picture from 0 to 1", "multiply them by its width and height"),
    "xyxy": ("x1, y1, x2, y2", "subtract x1 and y1 from the other two"),
    "swapped": ("y, x, height, width", "exchange them pair by pair"),
}


def box_form(boxes: Floats, sizes_hw: Ints) -> Form:
    """The form of a data set's boxes (N,4), in pictures of sizes (N,2), judged by all of them together.

    Another form than 'xywh' is only named where it explains all boxes, and 'xywh' leaves many outside their pictures.
    """
    if not len(boxes):
        return "xywh"
    whole = (boxes == np.round(boxes)).all(axis=1)
    shares = ((boxes >= 0) & (boxes <= 1)).all(axis=1) & ~whole
    if shares.mean() > 0.9:
        return "normalised"
    limits = sizes_hw[:, ::-1] * (1 + REACH_SHARE) + REACH_PX  # (N,2) x, y
    beyond = (boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1)
    if beyond.sum() < 2 or beyond.mean() < SUSPICIOUS:
        return "xywh"
    if ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits)).all():
        return "xyxy"
    turned = boxes[:, [1, 0, 3, 2]]
    if (turned[:, :2] + turned[:, 2:] <= limits).all():
        return "swapped"
    return "xywh"
