"""From results, as they come from several threads, to files in the order of the input."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from gfl.data.transforms import Image
from gfl.runtime.result import Result
from infer.journal import Journal
from infer.opened import Source
from infer.pipeline import Failed, InOrder
from infer.rows import Row, Selection, Tally, encode, row_of, selected
from infer.videos import Frame


class Drawing(Protocol):
    """What draws results: the pictures each into a file of its own at once, the frames of a video in their order."""

    def draw(self, position: int, result: Result) -> Image | None:
        """Draw the result of the input at a position, in any thread; what `append` is to get of it."""

    @property
    def notes(self) -> Iterator[str]:
        """For the user, known at the end."""

    def append(self, source: str, image: Image) -> None:
        """Take what `draw` gave, in the order of the input."""


class SourceTimes:
    """The time stamps of the sources that are on their way through the pipeline."""

    def __init__(self, start: int = 0) -> None:
        """start: position of the first source that is watched."""
        self._next = start
        self._times: dict[int, float] = {}  # s, of the frames of a video by position

    def watch(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources, as they are."""
        for source in sources:
            if isinstance(source, Frame):
                self._times[self._next] = source.time_s
            self._next += 1
            yield source

    def take(self, position: int) -> float | None:
        """The time stamp of a source that has come out; None of a picture."""
        return self._times.pop(position, None)


class Written(NamedTuple):
    """A picture that waits for its turn to be written."""

    row: Row
    line: bytes  # of results.jsonl
    drawn: Image | None  # for `Drawing.append`


class Recorder:
    """Takes results from several threads; draws them at once, and writes and counts them in the order of the input."""

    def __init__(
        self,
        journal: Journal,
        tally: Tally,
        selection: Selection,
        image_ids: Sequence[int],
        *,
        times: SourceTimes,
        drawing: Drawing | None = None,
    ) -> None:
        """Begin, or go on where the journal ends. image_ids: COCO's, of all inputs in order."""
        self.tally = tally
        self._journal = journal
        self._selection = selection
        self._image_ids = image_ids
        self._times = times
        self._drawing = drawing
        self._in_order: InOrder[Written] = InOrder()
        self._lock = threading.Lock()

    def take(self, position: int, outcome: Result | Failed) -> None:
        """The outcome of the picture at a position, counted from where the journal ended.

        All but the writing is done side by side in the calling threads.
        """
        place = self._journal.resumed + position
        if isinstance(outcome, Result):
            outcome = selected(outcome, self._selection)
        row = row_of(outcome, self._image_ids[place], self._selection.category_ids, self._times.take(place))
        drawn = None
        if self._drawing is not None and isinstance(outcome, Result):
            drawn = self._drawing.draw(place, outcome)
        written = Written(row, encode(row), drawn)
        with self._lock:
            for following in self._in_order.add(position, written):
                self._write(following)

    def _write(self, written: Written) -> None:
        if self._drawing is not None and written.drawn is not None:
            self._drawing.append(written.row["file"], written.drawn)
        self._journal.add(written.line)
        self.tally.add(written.row)
