"""The detections of one picture, in its own pixels: what every form of the model returns.

Shapes: B picture, D detection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import scale_factors
from gfl.data.coco_json import CocoDetection, coco_detections
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.report.draw import draw
from gfl.runtime.description import Arrays, Description


class PictureInfo(NamedTuple):
    """Where a picture came from and what became of it."""

    source: str  # its file, or what the caller calls it
    size_hw: tuple[int, int]  # original, px
    resized_hw: tuple[int, int]  # inside the canvas, px
    image: Image | None = None  # the original, kept where it is to be drawn on


@dataclass(frozen=True)
class Result:
    """Detections of one picture, best first."""

    boxes_xyxy: NDArray[np.float32]  # (D,4) px of the original picture
    scores: NDArray[np.float32]  # (D,)
    labels: NDArray[np.int32]  # (D,) class from 0
    names: tuple[str, ...]  # of the class, D of them
    category_ids: tuple[int, ...]  # of the data set, D of them
    edge_std: NDArray[np.float32]  # (D,4) px of the original: spread of the left, top, right and bottom edge
    complete: bool  # True where the detections equal full greedy NMS for certain
    size_hw: tuple[int, int]  # of the original picture, px
    source: str
    image: Image | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self, score: float = 0.3) -> Image:
        """The picture, uint8 (H,W,3) RGB, with the detections of at least this score drawn on a copy.

        Raises InputError where the picture was not kept.
        """
        if self.image is None:
            raise InputError(f"the picture of {self.source} was not kept; call gfl.report.draw.draw with it instead")
        shown = np.flatnonzero(self.scores >= score)
        names = [self.names[i] for i in shown]
        return draw(self.image, self.boxes_xyxy[shown], self.scores[shown], self.labels[shown], names)

    def to_coco(self, image_id: int = 0) -> list[CocoDetection]:
        """COCO results; bbox is x, y, width, height in px of the original."""
        return coco_detections(image_id, self.boxes_xyxy, self.scores, self.category_ids)


def result_of(arrays: Arrays, index: int, placed: PictureInfo, about: Description) -> Result:
    """The result of the picture at `index` of a batch; labels that are no class (the background's) are left out."""
    count = int(arrays["count"][index])
    labels = arrays["labels"][index][:count].astype(np.int32)
    real = labels < len(about.names)
    scale_h, scale_w = scale_factors(placed.size_hw, placed.resized_hw)
    scale = np.array([scale_w, scale_h, scale_w, scale_h], np.float32)
    labels = labels[real]
    return Result(
        boxes_xyxy=(arrays["boxes"][index][:count][real] / scale).astype(np.float32, copy=False),
        scores=arrays["scores"][index][:count][real].astype(np.float32, copy=False),
        labels=labels,
        names=tuple(about.names[label] for label in labels),
        category_ids=tuple(about.category_ids[label] for label in labels),
        edge_std=(arrays["edge_std"][index][:count][real] / scale).astype(np.float32, copy=False),
        complete=bool(arrays["complete"][index]),
        size_hw=placed.size_hw,
        source=placed.source,
        image=placed.image,
    )
