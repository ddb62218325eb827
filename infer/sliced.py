"""Pictures in slices: each view of a picture goes through the pipeline as a picture, and their results come out as one.

So the pipeline's memory stays bounded by single views, and one picture at a time is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gfl.data.picture_rows import open_rows
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.runtime.description import Description
from gfl.runtime.result import PictureInfo, Result
from gfl.runtime.slices import Decoded, Gathering, Rows, Slicing, count_views, views_of
from infer.opened import Opened, Source, Unreadable
from infer.pipeline import Failed, OnResult
from infer.sources import File


class ViewSource(NamedTuple):
    """A view, decoded already."""

    name: str  # of its picture
    image: Image
    is_first: bool  # of several pictures in a file, and the first view of it

    def open(self) -> Opened:
        """The view."""
        return Opened(self.image.shape[0] * self.image.shape[1], lambda: self.image, self.is_first)


class SlicedPictures:
    """From pictures to views, and from the views' outcomes to the pictures'."""

    def __init__(self, slicing: Slicing, about: Description, on_result: OnResult, keep_pixels: int = 0) -> None:
        """on_result, keep_pixels: as of `run_pictures`, for the pictures."""
        self._slicing, self._on_result, self._keep_pixels = slicing, on_result, keep_pixels
        self._gathering = Gathering(about)
        self._broken: dict[int, int] = {}  # the number of what stands for the rest of a picture -> the picture's
        self._lock = threading.Lock()

    def views(self, pictures: Iterable[Source]) -> Iterator[Source]:
        """The views of all pictures; of one that cannot be read to its end, a last one which says so."""
        view = 0
        for number, source in enumerate(pictures):
            try:
                with open_picture(source) as (rows, is_first):
                    image = rows.image if isinstance(rows, Decoded) and self._keeps(rows) else None
                    info = PictureInfo(source.name, rows.size_hw, rows.size_hw, image)
                    with self._lock:
                        self._gathering.begin(number, info, count_views(rows.size_hw, self._slicing))
                    for place, (window, part) in enumerate(views_of(rows, self._slicing)):
                        with self._lock:
                            self._gathering.expect(view, number, window)
                        yield ViewSource(source.name, part, is_first and place == 0)
                        view += 1
            except (InputError, MemoryError) as error:
                full = f"{source.name} does not fit into memory, expected a smaller picture; cut it into parts"
                with self._lock:
                    self._broken[view] = number
                yield Unreadable(source.name, str(error) if isinstance(error, InputError) else full)
                view += 1

    def _keeps(self, rows: Rows) -> bool:
        return rows.size_hw[0] * rows.size_hw[1] <= self._keep_pixels

    def take(self, view: int, outcome: Result | Failed) -> None:
        """The outcome of a view; hands on that of its picture where nothing of it is left, in any thread."""
        with self._lock:
            if isinstance(outcome, Failed):
                picture = self._broken.pop(view, None)
                if picture is None:
                    picture = self._gathering.fail(view)
                if picture is None:
                    return
                self._gathering.drop(picture)
                whole: tuple[int, Result | Failed] | None = (picture, outcome)
            else:
                whole = self._gathering.add(view, outcome)
        if whole is not None:
            self._on_result(*whole)


@contextmanager
def open_picture(source: Source) -> Iterator[tuple[Rows, bool]]:
    """A picture, decoded or to be read by rows, and whether its file holds more; InputError where it cannot be read."""
    rows = open_rows(source.path, source.most_pixels) if isinstance(source, File) else None
    if rows is not None:
        with rows:
            yield rows, False
        return
    opened = source.open()
    yield Decoded(opened.decode()), opened.is_first
