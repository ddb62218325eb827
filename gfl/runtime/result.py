"""The detections of one picture, in its own pixels: what every form of the model returns. D is detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import SAME_OBJECT_IOU, distinct_boxes, scale_factors
from gfl.data.coco_json import CocoDetection, coco_detections
from gfl.data.picture_files import read_picture
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.packages import import_package
from gfl.report.draw import PALETTE, draw
from gfl.runtime.description import Arrays, Description
from gfl.words import counted, printable

MOST_SHOWN = 5  # detections that the repr of a result lists
ABOVE_ALL = 1.1  # a score that no detection has


class PictureInfo(NamedTuple):
    """What leads from a picture on its canvas back to the original."""

    source: str  # its file, or what the caller calls it
    size_hw: tuple[int, int]  # of the original, px
    resized_hw: tuple[int, int]  # inside the canvas, px
    image: Image | None = None  # the original, where it is to be drawn on


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Detections of one picture, best first; the comments say what the fields hold.

    Two results are equal where all fields but the picture are, to the last digit. `result[mask]` is that of `select`,
    and iterating gives a result of one detection each.

    Example:
        >>> result = Result(
        ...     boxes_xyxy=np.array([[10.0, 20.0, 40.0, 80.0]], np.float32),
        ...     scores=np.array([0.5], np.float32),
        ...     labels=np.array([1], np.int32),
        ...     names=("dog",),
        ...     category_ids=(18,),
        ...     edge_std=np.ones((1, 4), np.float32),
        ...     score_thresholds=np.array([0.4], np.float32),
        ...     complete=True,
        ...     size_hw=(100, 100),
        ...     source="dog.jpg",
        ...     image=np.zeros((100, 100, 3), np.uint8),
        ... )
        >>> result
        <Result dog.jpg 100x100: 1 detection: dog 0.50>
        >>> len(result)
        1
        >>> result.to_coco(image_id=7)
        [{'image_id': 7, 'category_id': 18, 'bbox': [10.0, 20.0, 30.0, 60.0], 'score': 0.5}]
        >>> len(result.confident()), len(result.confident(0.6))
        (1, 0)
        >>> result.draw().shape
        (100, 100, 3)
    """

    boxes_xyxy: NDArray[np.float32]  # (D,4) px of the original picture
    scores: NDArray[np.float32]  # (D,)
    labels: NDArray[np.int32]  # (D,) class from 0
    names: tuple[str, ...]  # of the classes, one a detection
    category_ids: tuple[int, ...]  # of the data set, one a detection
    edge_std: NDArray[np.float32]  # (D,4) px of the original: spread of the left, top, right and bottom edge
    score_thresholds: NDArray[np.float32]  # (D,) of each detection's class: from here on a person wants to see it
    complete: bool  # True where the detections equal the NMS of the settings over all pairs for certain
    size_hw: tuple[int, int]  # of the original picture, px
    source: str
    image: Image | None = field(default=None, compare=False)  # the result's own copy; None: it was not kept
    track_ids: NDArray[np.int64] | None = None  # (D,) of an object in its video, -1: none yet; None: not followed

    __hash__ = None  # type: ignore[assignment]  # the arrays can be written to

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        pairs = ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self) if each.compare)
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)

    def __repr__(self) -> str:
        height, width = self.size_hw
        shown = [f"{self.names[i]} {self.scores[i]:.2f}" for i in range(min(len(self), MOST_SHOWN))]
        shown += ["..."] if len(self) > MOST_SHOWN else []
        found = counted(len(self), "detection") + (f": {', '.join(shown)}" if shown else "")
        return printable(f"<Result {self.source} {width}x{height}: {found}>")

    def __iter__(self) -> Iterator[Result]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, chosen: int | slice | Sequence[int] | NDArray[np.bool_] | NDArray[np.intp]) -> Result:
        """The detection at a place, or those of a slice, a mask (D,) or indices."""
        return self.select(np.atleast_1d(np.arange(len(self))[chosen]))

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Result:
        """The detections of a mask (D,) or of indices, in their order, with the same picture."""
        indices = np.arange(len(self))[chosen]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[indices],
            scores=self.scores[indices],
            labels=self.labels[indices],
            names=tuple(self.names[i] for i in indices),
            category_ids=tuple(self.category_ids[i] for i in indices),
            edge_std=self.edge_std[indices],
            score_thresholds=self.score_thresholds[indices],
            track_ids=None if self.track_ids is None else self.track_ids[indices],
        )

    def confident(self, score: float | None = None) -> Result:
        """The detections that are worth showing: those of at least `score`, or of at least their class's threshold.

        A score a little above 1 leaves none. Raises InputError for a percentage, and for what is no number.
        """
        if score is not None:
            check_share("score", score, most=ABOVE_ALL)
        return self.select(self.scores >= (self.score_thresholds if score is None else score))

    def distinct(self, iou: float = SAME_OBJECT_IOU) -> Result:
        """Without the detections that overlap a better one, of any class, by more than `iou`: a label an object.

        The model's own NMS compares detections of one class, so that two classes may claim the same object.
        Raises InputError for an `iou` that is none.
        """
        check_share("iou", iou)
        return self.select(distinct_boxes(self.boxes_xyxy, iou))

    def picture(self) -> Image:
        """The picture, uint8 (H,W,3) RGB: the copy that was kept, else its file read again.

        Raises InputError where there is neither, and where the file is no longer the picture that was looked at.
        """
        if self.image is not None:
            return self.image
        if not Path(self.source).is_file():
            raise InputError(f"the picture of {self.source} was not kept; detect with keep_images=True to draw on it")
        image = read_picture(Path(self.source))
        if image.shape[:2] != self.size_hw:
            raise InputError(
                f"{self.source} is now {image.shape[1]}x{image.shape[0]}, expected the picture of "
                f"{self.size_hw[1]}x{self.size_hw[0]} that was looked at; detect again"
            )
        return image

    def draw(self, score: float | None = None, *, edges: bool = False) -> Image:
        """A copy of the picture, uint8 (H,W,3) RGB, with `confident(score).distinct()` drawn on it. What is followed
        through a video has the number and the colour of its track.

        edges: also draw how sure the detector is of each edge, a whisker as long as its spread. Raises InputError as
        `picture`.
        """
        shown = self.confident(score).distinct()
        spread = shown.edge_std if edges else None
        names, colours = shown.names, None
        if shown.track_ids is not None:
            ids = shown.track_ids.tolist()
            names = tuple(f"#{number} {name}" if number >= 0 else name for number, name in zip(ids, names, strict=True))
            colours = [PALETTE[number % len(PALETTE)] for number in ids]
        image = self.picture()
        return draw(image, shown.boxes_xyxy, shown.scores, shown.labels, names, edge_std=spread, colours=colours)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the picture as drawn; None, and so the text, where it was not kept."""
        try:
            drawn = self.draw()
        except InputError:
            return None
        return bytes(cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1])

    def to_supervision(self) -> object:
        """The detections as a supervision.Detections, of Roboflow's package: boxes, confidences, classes and names.

        Raises InputError where the package is missing.
        """
        supervision = import_package(
            "supervision", "to_supervision needs the package supervision, which", "pip install supervision"
        )
        detections: object = supervision.Detections(
            xyxy=self.boxes_xyxy.astype(np.float32).reshape(-1, 4),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return detections

    def to_coco(self, image_id: int = 0) -> list[CocoDetection]:
        """The detections as entries of a COCO results file; bbox is x, y, width, height in px of the original."""
        return coco_detections(image_id, self.boxes_xyxy, self.scores, self.category_ids)


def check_share(what: str, value: float, most: float = 1.0) -> float:
    """A score or an IoU; raises InputError for anything but a number from 0 to 1, or to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 <= value <= most:
        raise InputError(f"got the {what} {value!r}, expected a number from 0 to 1; omit it, or give one")
    return float(value)


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
        score_thresholds=np.array(description.score_thresholds, np.float32)[labels],
        edge_std=(outputs["edge_std"][index][:count][real] / scale).astype(np.float32, copy=False),
        complete=bool(outputs["complete"][index]),
        size_hw=info.size_hw,
        source=info.source,
        image=info.image,
    )
