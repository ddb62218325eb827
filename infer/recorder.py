"""From results, as they come from several threads, to files in the order of the input."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gfl.runtime.result import Result
from infer.drawn_pictures import DrawnPictures
from infer.output_folder import DetectionsFile, encode_line
from infer.pipeline import Failed, InOrder


class PictureRows(NamedTuple):
    """What is written and counted of one picture."""

    lines: list[bytes]  # of detections.json
    shown: Counter[str]  # confident detections, by class
    complete: bool  # the detections equal full greedy NMS for certain


class Recorder:
    """Takes results from several threads; draws them at once, and writes and counts them in the order of the input."""

    def __init__(
        self,
        detections: DetectionsFile,
        score: float | None,
        image_ids: Sequence[int],
        drawn: DrawnPictures | None = None,
    ) -> None:
        """Begin.

        score: as of `Result.confident`, whose detections are counted.
        image_ids: COCO's, of the pictures in order.
        """
        self.images = 0
        self.incomplete = 0
        self.shown: Counter[str] = Counter()
        self.failed: list[Failed] = []
        self._detections = detections
        self._score = score
        self._image_ids = image_ids
        self._drawn = drawn
        self._in_order: InOrder[PictureRows | Failed] = InOrder()
        self._lock = threading.Lock()

    @property
    def detection_count(self) -> int:
        """How many detections were written."""
        return self._detections.count

    def take(self, position: int, outcome: Result | Failed) -> None:
        """The outcome of the picture at a position; all but the writing is done side by side in the calling threads."""
        rows = outcome if isinstance(outcome, Failed) else self._rows_of(position, outcome)
        with self._lock:
            for following in self._in_order.add(position, rows):
                self._write(following)

    def _rows_of(self, position: int, result: Result) -> PictureRows:
        if self._drawn is not None:
            self._drawn.write(position, result)
        rows = result.to_coco(self._image_ids[position])
        lines = [encode_line({**row, "file_name": result.source}) for row in rows]
        return PictureRows(lines, Counter(result.confident(self._score).names), result.complete)

    def _write(self, outcome: PictureRows | Failed) -> None:
        if isinstance(outcome, Failed):
            self.failed.append(outcome)
            return
        self.images += 1
        self.incomplete += not outcome.complete
        self.shown.update(outcome.shown)
        self._detections.add(outcome.lines)
