"""From results, as they come from several threads, to files in the order of the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from gfl.runtime.result import Result
from infer.pipeline import Failed, in_order
from infer.results import DetectionsFile, encode_line


class Found(NamedTuple):
    """What is written of one picture."""

    lines: list[bytes]  # of detections.json
    shown: Counter[str]  # detections of at least --score, by class
    complete: bool  # the detections equal full greedy NMS for certain


class Recorder:
    """Takes results from several threads, and writes them in the order of the input."""

    def __init__(
        self,
        detections: DetectionsFile,
        score: float,
        image_id: Callable[[int], int],
        draw: Callable[[int, Result], None] | None,
        step: Callable[[], object],
    ) -> None:
        """image_id: of the source at a place. step: called after each picture, by one thread at a time."""
        self.images = 0
        self.incomplete = 0
        self.shown: Counter[str] = Counter()
        self.failed: list[Failed] = []
        self._detections = detections
        self._score = score
        self._image_id = image_id
        self._draw = draw
        self._step = step
        self._write = in_order(self._write_next)

    def take(self, index: int, outcome: Result | Failed) -> None:
        """The outcome of the source at `index`: drawn and made JSON by the thread that calls."""
        if isinstance(outcome, Failed):
            self._write(index, outcome)
            return
        if self._draw is not None:
            self._draw(index, outcome)
        rows = outcome.to_coco(self._image_id(index))
        lines = [encode_line({**row, "file_name": outcome.source}) for row in rows]
        names = zip(outcome.names, outcome.scores >= self._score, strict=True)
        self._write(index, Found(lines, Counter(name for name, above in names if above), outcome.complete))

    def _write_next(self, index: int, value: Found | Failed) -> None:
        if isinstance(value, Failed):
            self.failed.append(value)
        else:
            self.images += 1
            self.incomplete += not value.complete
            self.shown.update(value.shown)
            self._detections.add(value.lines)
        self._step()
