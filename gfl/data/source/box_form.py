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


class BoxForms:
    """The form of a data set's boxes, judged by all of them together; they are looked at some at a time.

    Another form than 'xywh' is only named where it explains all boxes, and 'xywh' leaves many outside their pictures.
    """

    def __init__(self) -> None:
        self._boxes = self._shares = self._beyond = 0
        self._all_xyxy = self._all_swapped = True

    def add(self, boxes: Floats, sizes_hw: Ints) -> None:
        """Boxes (N,4) in pictures of sizes (N,2)."""
        whole = (boxes == np.round(boxes)).all(axis=1)
        shares = ((boxes >= 0) & (boxes <= 1)).all(axis=1) & ~whole
        limits = sizes_hw[:, ::-1] * (1 + REACH_SHARE) + REACH_PX  # (N,2) x, y
        beyond = (boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1)
        self._boxes += len(boxes)
        self._shares += int(shares.sum())
        self._beyond += int(beyond.sum())
        if self._all_xyxy:
            self._all_xyxy = bool(((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits)).all())
        if self._all_swapped:
            turned = boxes[:, [1, 0, 3, 2]]
            self._all_swapped = bool((turned[:, :2] + turned[:, 2:] <= limits).all())

    @property
    def form(self) -> Form:
        """What all of them are."""
        if self._shares > 0.9 * self._boxes:
            return "normalised"
        if self._beyond < 2 or self._beyond < SUSPICIOUS * self._boxes:
            return "xywh"
        return "xyxy" if self._all_xyxy else "swapped" if self._all_swapped else "xywh"
