"""The detections of one picture, in its own pixels: what every form of the model returns. D is detections."""

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
    """What leads from a picture on its canvas back to the original."""

    source: str  # its file, or what the caller calls it
    size_hw: tuple[int, int]  # of the original, px
    resized_hw: tuple[int, int]  # inside the canvas, px
    image: Image | None = None  # the original, where it is to be drawn on


@dataclass(frozen=True)
class Result:
    """Detections of one picture, best first; the comments say what the fields hold.

    Example:
        >>> result = Result(
        ...     boxes_xyxy=np.array([[10.0, 20.0, 40.0, 80.0]], np.float32),
        ...     scores=np.array([0.5], np.float32),
        ...     labels=np.array([1], np.int32),
        ...     names=("dog",),
        ...     category_ids=(18,),
        ...     edge_std=np.ones((1, 4), np.float32),
        ...     complete=True,
        ...     size_hw=(100, 100),
        ...     source="dog.jpg",
        ...     image=np.zeros((100, 100, 3), np.uint8),
        ... )
        >>> len(result)
        1
        >>> result.to_coco(image_id=7)
        [{'image_id': 7, 'category_id': 18, 'bbox': [10.0, 20.0, 30.0, 60.0], 'score': 0.5}]
        >>> result.draw().shape
        (100, 100, 3)
    """

    boxes_xyxy: NDArray[np.float32]  # (D,4) px of the original picture
    scores: NDArray[np.float32]  # (D,)
    labels: NDArray[np.int32]  # (D,) class from 0
    names: tuple[str, ...]  # of the classes, one a detection
    category_ids: tuple[int, ...]  # of the data set, one a detection
    edge_std: NDArray[np.float32]  # (D,4) px of the original: spread of the left, top, right and bottom edge
    complete: bool  # True where the detections equal full greedy NMS for certain
    size_hw: tuple[int, int]  # of the original picture, px
    source: str
    image: Image | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self, score: float = 0.3) -> Image:
        """A copy of the picture, uint8 (H,W,3) RGB, with the detections of at least this score drawn on it.

        Raises InputError where the result was made without keeping its picture.
        """
        if self.image is None:
            raise InputError(f"the picture of {self.source} was not kept; call gfl.report.draw.draw with it instead")
        shown = np.flatnonzero(self.scores >= score)
        names = [self.names[i] for i in shown]
        return draw(self.image, self.boxes_xyxy[shown], self.scores[shown], self.labels[shown], names)

    def to_coco(self, image_id: int = 0) -> list[CocoDetection]:
        """The detections as entries of a COCO results file; bbox is x, y, width, height in px of the original."""
        return coco_detections(image_id, self.boxes_xyxy, self.scores, self.category_ids)


def result_of(outputs: Arrays, index: int, info: PictureInfo, description: Description) -> Result:
    """The result of the picture at `index` of a batch, from the model's outputs for it.

    Labels that are no class (the background channel's) are left out.
    """
    count = int(outputs["count"][index])
    labels = outputs["labels"][index][:count].astype(np.int32)
    real = labels < len(description.names)
    scale_h, scale_w = scale_factors(info.size_hw, info.resized_hw)
    scale = np.array([scale_w, scale_h, scale_w, scale_h], np.float32)
    labels = labels[real]
    return Result(
        boxes_xyxy=(outputs["boxes"][index][:count][real] / scale).astype(np.float32, copy=False),
        scores=outputs["scores"][index][:count][real].astype(np.float32, copy=False),
        labels=labels,
        names=tuple(description.names[label] for label in labels),
        category_ids=tuple(description.category_ids[label] for label in labels),
        edge_std=(outputs["edge_std"][index][:count][real] / scale).astype(np.float32, copy=False),
        complete=bool(outputs["complete"][index]),
        size_hw=info.size_hw,
        source=info.source,
        image=info.image,
    )
