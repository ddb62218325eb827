"""What is written of one picture: a line of results.jsonl, from which every other format is made. D is detections.

{"id": 1, "file": "a.jpg", "width": 640, "height": 480, "count": 1, "complete": true, "failure": null,
 "detections": [{"category_id": 18, "bbox": [10.25, 20.5, 30.0, 60.75], "score": 0.53211}]}

bbox is x, y, width, height in px of the original picture, to 0.01 px; scores have five digits. The frames of a video
also have time_s, seconds from its beginning, and what is followed through it (--track) has a track_id. Of a picture
that could not be read, failure says why, and width, height and complete are null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import SAME_OBJECT_IOU, distinct_boxes
from gfl.files import to_json
from gfl.runtime.result import Result
from infer.pipeline import Failed

BOX_DIGITS, SCORE_DIGITS, TIME_DIGITS = 2, 5, 6


class AnyDetection(TypedDict):
    """What is written of every detection."""

    category_id: int
    bbox: list[float]  # x, y, width, height, px of the original
    score: float


class Detection(AnyDetection, total=False):
    """One detection of a picture."""

    track_id: int  # of an object that is followed through its video, from 1


class AnyRow(TypedDict):
    """What is written of pictures and of frames alike."""

    id: int
    file: str
    width: int | None  # px of the original; None where it could not be read
    height: int | None
    count: int  # of the detections
    complete: bool | None  # as of Result
    failure: str | None  # why it could not be read, one sentence
    detections: list[Detection]  # best first


class Row(AnyRow, total=False):
    """A picture with its detections."""

    time_s: float  # of a frame, from the beginning of its video


class Category(TypedDict):
    """A class as results name it."""

    id: int
    name: str
    score_threshold: float  # detections below it are not drawn, and not counted in what is printed


NUMBER = (int, float)
TYPES: Mapping[str, tuple[type, ...]] = {  # of a Row's fields as JSON has them, but for the detections
    "id": (int,),
    "file": (str,),
    "width": (int, type(None)),
    "height": (int, type(None)),
    "count": (int,),
    "complete": (bool, type(None)),
    "failure": (str, type(None)),
}


class Selection(NamedTuple):
    """Which detections are written, and as what."""

    category_ids: Sequence[int | None]  # label -> category id; None leaves the class out
    min_score: float = 0.0
    top: int | None = None  # at most so many a picture; None: all
    iou: float | None = None  # of two that overlap by more, of any classes, the better; None: as the model leaves them


def row_of(
    outcome: Result | Failed, image_id: int, category_ids: Sequence[int | None], time_s: float | None = None
) -> Row:
    """What is written of a picture; of a result all that it holds, which is what was `selected`."""
    row: Row
    if isinstance(outcome, Failed):
        row = {
            "id": image_id,
            "file": outcome.source,
            "width": None,
            "height": None,
            "count": 0,
            "complete": None,
            "failure": outcome.reason,
            "detections": [],
        }
    else:
        detections = detections_of(outcome, category_ids)
        height, width = outcome.size_hw
        row = {
            "id": image_id,
            "file": outcome.source,
            "width": width,
            "height": height,
            "count": len(detections),
            "complete": outcome.complete,
            "failure": None,
            "detections": detections,
        }
    if time_s is not None:
        row["time_s"] = round(time_s, TIME_DIGITS)
    return row


def detections_of(result: Result, category_ids: Sequence[int | None]) -> list[Detection]:
    """The detections of a result as they are written, best first; category_ids: as of `Selection`."""
    boxes_xywh = rounded_boxes(result.boxes_xyxy).tolist()
    scores = np.round(result.scores.astype(np.float64), SCORE_DIGITS).tolist()
    ids = [-1] * len(result) if result.track_ids is None else result.track_ids.tolist()
    found: list[Detection] = []
    for label, box, score, track_id in zip(result.labels.tolist(), boxes_xywh, scores, ids, strict=True):
        category_id = category_ids[label]
        if category_id is not None:
            found.append({"category_id": category_id, "bbox": box, "score": score})
            if track_id >= 0:
                found[-1]["track_id"] = track_id
    return found


def selected(result: Result, selection: Selection) -> Result:
    """The result with the detections that are written of it, which are also those that are drawn."""
    if selection.iou is not None:
        result = result.distinct(selection.iou)
    if selection.min_score == 0 and selection.top is None and None not in selection.category_ids:
        return result
    keep = result.scores >= selection.min_score
    has_id = np.array([category_id is not None for category_id in selection.category_ids], np.bool_)
    return result.select(np.flatnonzero(keep & has_id[result.labels])[: selection.top])


def rounded_boxes(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """(D,4) corners -> (D,4) x, y, width, height. The corners are rounded, so that no box leaves its picture."""
    corners = np.round(boxes_xyxy.astype(np.float64), BOX_DIGITS)
    sides = np.round(corners[:, 2:] - corners[:, :2], BOX_DIGITS)
    return np.concatenate([corners[:, :2], sides], axis=1)


def is_row(entry: Mapping[str, object]) -> TypeGuard[Row]:
    """Whether an object of a file is what `row_of` gives: a person may have edited the file."""
    detections = entry.get("detections")
    return (
        all(key in entry and isinstance(entry[key], types) for key, types in TYPES.items())
        and isinstance(entry.get("time_s", 0), NUMBER)
        and all((entry[key] is None) == (entry["failure"] is not None) for key in ("width", "height", "complete"))
        and isinstance(detections, list)
        and len(detections) == entry["count"]
        and all(map(is_detection, detections))
    )


def is_detection(entry: object) -> TypeGuard[Detection]:
    """Whether an entry of `is_row`'s detections is one."""
    if not isinstance(entry, dict):
        return False
    box = entry.get("bbox")
    return (
        isinstance(entry.get("category_id"), int)
        and isinstance(entry.get("score"), NUMBER)
        and isinstance(entry.get("track_id", 0), int)
        and isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, NUMBER) for side in box)
    )


def encode(row: Row | Mapping[str, object]) -> bytes:
    """A JSON object on one line, with its end; bytes of a file name that are not Unicode become escapes."""
    return to_json(row).encode("utf-8", "backslashreplace") + b"\n"


def coco_lines(row: Row) -> list[bytes]:
    """The detections of a picture as entries of COCO results, each on a line without its end."""
    name = to_json(row["file"])
    texts = (
        f'{{"image_id": {row["id"]}, "category_id": {detection["category_id"]}, '
        f'"bbox": [{", ".join(map(repr, detection["bbox"]))}], "score": {detection["score"]!r}, '
        + (f'"track_id": {detection["track_id"]}, ' if "track_id" in detection else "")
        + f'"file_name": {name}}}'
        for detection in row["detections"]
    )
    return [text.encode("utf-8", "backslashreplace") for text in texts]


class Tally:
    """What was written so far, counted."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.images = 0
        self.incomplete = 0
        self.detections = 0
        self.shown: Counter[str] = Counter()  # detections of at least their class's threshold, by class
        self.distinct = 0  # of these, those that are drawn: one an object
        self.failed: list[Failed] = []
        self._categories = {category["id"]: category for category in categories}

    @property
    def pictures(self) -> int:
        """How many were answered, failures among them."""
        return self.images + len(self.failed)

    def add(self, row: Row) -> None:
        """Count a picture."""
        if row["failure"] is not None:
            self.failed.append(Failed(row["file"], row["failure"]))
            return
        self.images += 1
        self.incomplete += not row["complete"]
        self.detections += row["count"]
        boxes_xywh = []
        for detection in row["detections"]:
            category = self._categories[detection["category_id"]]
            if detection["score"] >= category["score_threshold"]:
                self.shown[category["name"]] += 1
                boxes_xywh.append(detection["bbox"])
        boxes = np.array(boxes_xywh, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        self.distinct += int(distinct_boxes(boxes, SAME_OBJECT_IOU).sum())
