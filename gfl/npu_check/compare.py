"""Compares two ways of computing the same thing: losses step by step, detections picture by picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import pairwise_iou

Row = Mapping[str, object]
Boxes = NDArray[np.float64]

CLEAR = 0.3  # the least score at which both sides must have a detection; weaker ones may fall below the threshold
SAME_IOU = 0.9  # the least IoU at which two boxes of one class are the same detection


def read_rows(run: Path) -> list[dict[str, object]]:
    """The lines of a run's log.jsonl."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def step_losses(rows: Sequence[Row]) -> list[float]:
    """The loss of each step, NaN where the log has null."""
    return [number(row["loss"]) for row in rows if "loss" in row]


def number(value: object) -> float:
    """A number read from JSON, in which null stands for NaN."""
    return float(value) if isinstance(value, int | float) else math.nan


def relative_differences(losses: Sequence[float], others: Sequence[float]) -> list[float]:
    """|a - b| / |b| of each step; infinite where a loss is missing or not finite."""
    differences = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, others, strict=False)]
    differences += [math.inf] * abs(len(losses) - len(others))
    return [difference if math.isfinite(difference) else math.inf for difference in differences]


class Agreement(NamedTuple):
    """How far two sets of detections of the same pictures agree."""

    clear: int  # detections of either side with a score of CLEAR or more
    unmatched: int  # of these, without a partner of the same class on the other side
    score_difference: float  # the largest between partners

    @property
    def share(self) -> float:
        """Share of the clear detections that both sides have; 1 where there are none."""
        return 1.0 - self.unmatched / self.clear if self.clear else 1.0


def agreement(ours: Sequence[Row], theirs: Sequence[Row]) -> Agreement:
    """Match COCO results by picture, class and IoU: the clear ones of each side with all of the other."""
    clear = unmatched = 0
    largest = 0.0
    sides = by_picture_and_class(ours), by_picture_and_class(theirs)
    for here, there in (sides, sides[::-1]):
        for key, boxes in here.items():
            partners = there.get(key, np.zeros((0, 5)))
            for box in boxes[boxes[:, 4] >= CLEAR]:
                overlap = pairwise_iou(box[None, :4], partners[:, :4])[0]
                clear += 1
                if not (overlap >= SAME_IOU).any():
                    unmatched += 1
                else:
                    largest = max(largest, abs(float(box[4] - partners[overlap.argmax(), 4])))
    return Agreement(clear, unmatched, largest)


def by_picture_and_class(results: Sequence[Row]) -> dict[tuple[object, object], Boxes]:
    """{(file name, category id): (D,5) x1, y1, x2, y2, score}."""
    found: dict[tuple[object, object], list[list[float]]] = {}
    for row in results:
        box = row["bbox"]
        if isinstance(box, list):
            x, y, width, height = map(number, box)
            entry = [x, y, x + width, y + height, number(row["score"])]
            found.setdefault((row["file_name"], row["category_id"]), []).append(entry)
    return {key: np.array(rows, dtype=np.float64) for key, rows in found.items()}
