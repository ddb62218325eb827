"""Detections as columns: one array a field, where COCO results are a dict a detection.

A validation of COCO has half a million of them: as dicts they take seconds to make, to check and to read again.
Letter: D detections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gfl.data.coco_json import CocoDetection, Floats, Ints
from gfl.errors import InputError

SPREAD_DECIMALS = 3  # of the edges' spread, px, in a file of results


class DetectionColumns(NamedTuple):
    """COCO results, a column a field."""

    image_ids: Ints  # (D,)
    category_ids: Ints  # (D,) the data set's own
    boxes_xywh: Floats  # (D,4) px of the original picture
    scores: Floats  # (D,)
    # (D,4) px: the spread of the left, top, right and bottom edge; None where it is not known of all
    edge_std: Floats | None = None

    def rows(self) -> list[CocoDetection]:
        """The same as COCO results; the spread of the edges, where it is known, as `edge_std` beside them."""
        rows: list[CocoDetection] = [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for image_id, category_id, box, score in zip(*(column.tolist() for column in self[:4]), strict=True)
        ]
        if self.edge_std is not None:
            for row, spread in zip(rows, self.edge_std.round(SPREAD_DECIMALS).tolist(), strict=True):
                row["edge_std"] = spread
        return rows

    def taken(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> DetectionColumns:
        """The detections of these indices, or under this mask."""
        image_ids, category_ids, boxes_xywh, scores, edge_std = self
        spreads = None if edge_std is None else edge_std[which]
        return DetectionColumns(image_ids[which], category_ids[which], boxes_xywh[which], scores[which], spreads)


CocoResults: TypeAlias = Sequence[CocoDetection] | DetectionColumns  # either form


def join_columns(parts: Iterable[DetectionColumns]) -> DetectionColumns:
    """The detections of all parts, one part after the other."""
    none = DetectionColumns(
        np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)), np.empty(0), np.empty((0, 4))
    )
    all_parts = [none, *parts]
    spreads = [part.edge_std for part in all_parts if part.edge_std is not None]
    return DetectionColumns(
        image_ids=np.concatenate([part.image_ids for part in all_parts]),
        category_ids=np.concatenate([part.category_ids for part in all_parts]),
        boxes_xywh=np.concatenate([part.boxes_xywh for part in all_parts]),
        scores=np.concatenate([part.scores for part in all_parts]),
        edge_std=np.concatenate(spreads) if len(spreads) == len(all_parts) else None,
    )


def sorted_by_image(columns: DetectionColumns) -> DetectionColumns:
    """The detections by image id, whichever canvas and rank they come from; those of a picture keep their order."""
    return columns.taken(np.argsort(columns.image_ids, kind="stable"))


def checked_columns(detections: CocoResults) -> DetectionColumns:
    """The detections as columns; the caller's stay as they are. InputError for the first that is no COCO result."""
    if isinstance(detections, DetectionColumns):
        finite = np.isfinite(detections.scores) & np.isfinite(detections.boxes_xywh).all(axis=1)
        if not finite.all():
            index = int(np.argmin(finite))
            _refuse_values(index, detections.boxes_xywh[index].tolist(), float(detections.scores[index]))
        return detections
    columns = _read_at_once(detections)
    return _read_one_by_one(detections) if columns is None else columns


def _read_at_once(detections: Sequence[CocoDetection]) -> DetectionColumns | None:
    """The usual form, fast: ids that are int, numbers that are finite. None for anything else."""
    try:
        ids = [[row[key] for row in detections] for key in ("image_id", "category_id")]
        if any(set(map(type, column)) - {int} for column in ids):
            return None
        boxes_xywh = np.array([row["bbox"] for row in detections], dtype=np.float64)
        scores = np.array([row["score"] for row in detections], dtype=np.float64)
        image_ids, category_ids = (np.array(column, dtype=np.int64) for column in ids)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    if not len(detections):
        boxes_xywh = boxes_xywh.reshape(0, 4)
    if boxes_xywh.shape != (len(detections), 4) or scores.shape != (len(detections),):
        return None
    if not (np.isfinite(boxes_xywh).all() and np.isfinite(scores).all()):
        return None
    return DetectionColumns(image_ids, category_ids, boxes_xywh, scores, _read_spreads(detections))


def _read_one_by_one(detections: Sequence[CocoDetection]) -> DetectionColumns:
    """What tools write otherwise, numbers as text for instance; and the sentence about the first that is wrong."""
    rows: list[tuple[int, int]] = []
    values: list[list[float]] = []
    for index, detection in enumerate(detections):
        try:
            box = [float(value) for value in detection["bbox"]]
            score = float(detection["score"])
            ids = int(detection["image_id"]), int(detection["category_id"])
            np.array(ids, dtype=np.int64)  # beyond 64 bits: OverflowError
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"detection {index} is not in COCO results form ({error!r}); "
                "expected image_id, category_id, bbox [x, y, width, height] and score"
            ) from error
        if len(box) != 4 or not all(map(math.isfinite, (*box, score))):
            _refuse_values(index, box, score)
        rows.append(ids)
        values.append([*box, score])
    ids_D2, values_D5 = np.array(rows, dtype=np.int64).reshape(-1, 2), np.array(values).reshape(-1, 5)
    return DetectionColumns(ids_D2[:, 0], ids_D2[:, 1], values_D5[:, :4], values_D5[:, 4], _read_spreads(detections))


def _read_spreads(detections: Sequence[CocoDetection]) -> Floats | None:
    """The `edge_std` of all, where every detection has one; what is no four finite numbers of 0 or more is none."""
    try:
        spreads = np.array([row["edge_std"] for row in detections], dtype=np.float64)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    if not len(detections):
        return spreads.reshape(0, 4)
    is_sound = spreads.shape == (len(detections), 4) and np.isfinite(spreads).all() and (spreads >= 0).all()
    return spreads if is_sound else None


def _refuse_values(index: int, box: list[float], score: float) -> NoReturn:
    raise InputError(f"detection {index} has bbox {box} and score {score}; expected finite x, y, width, height")
