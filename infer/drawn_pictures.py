"""Pictures with their detections, each in a file of its own. NumPy and OpenCV only."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2

from gfl.data.transforms import Image, resize, resized_size
from gfl.errors import InputError
from gfl.files import write_errors
from gfl.runtime.result import Result
from gfl.words import counted
from infer.sources import Files, listed

JPEG_QUALITY = 90
LONGEST_JPEG = 65_500  # px a side, libjpeg's limit
LONGEST_NAME = 50  # letters, of at most 4 bytes: file systems take 255 bytes


class DrawnPictures:
    """A folder of pictures with their detections, each in a file of its own."""

    def __init__(self, folder: Path, inputs: Files, score: float | None, *, edges: bool = False) -> None:
        """score, edges: as of `Result.draw`."""
        self._folder = folder
        self._files = inputs.files
        self._names = drawn_names([file.name for file in self._files])
        self._score, self._edges = score, edges
        self._large_lock = threading.Lock()  # pictures too large to be kept are read again, one at a time
        self._changed: list[str] = []  # names of such pictures that are gone by then, or others

    @property
    def notes(self) -> Iterator[str]:
        """Which pictures could not be drawn on."""
        if self._changed:
            yield (
                f"{counted(len(self._changed), 'picture')} not drawn, gone or replaced since the detection, or too "
                f"large to be held ({listed(sorted(self._changed))})"
            )

    def draw(self, position: int, result: Result) -> Image | None:
        """Draw the result of the input at a position; a picture that is gone meanwhile is named in the notes.

        Raises InputError where the file cannot be written.
        """
        path = self._folder / self._names[position]
        if result.image is not None:
            write_drawn(path, result.draw(self._score, edges=self._edges))
            return None
        with self._large_lock:
            image = self._read_again(position, result)
            if image is None:
                self._changed.append(self._files[position].name)
            else:
                write_drawn(path, replace(result, image=image).draw(self._score, edges=self._edges))
        return None

    def _read_again(self, position: int, result: Result) -> Image | None:
        """The picture of a result; None where it is no longer there."""
        with contextlib.suppress(InputError):
            image = self._files[position].open().decode()
            return image if image.shape[:2] == result.size_hw else None
        return None

    def append(self, source: str, image: Image) -> None:
        """Nothing: every picture is written at once."""


def write_drawn(path: Path, image: Image) -> None:
    """Write a picture as of `jpeg_of`; raises InputError where it cannot be written."""
    data = jpeg_of(image)
    with write_errors(path):
        path.write_bytes(data)


def jpeg_of(image: Image) -> bytes:
    """A uint8 (H,W,3) RGB picture as JPEG, shrunk where it is too long for one."""
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_JPEG:
        image = resize(image, resized_size(height, width, LONGEST_JPEG, LONGEST_JPEG))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise InputError("got no JPEG, expected OpenCV to encode one; install another build of OpenCV")
    return bytes(data)


def drawn_names(names: Sequence[str]) -> list[str]:
    """A JPEG name of its own for each picture."""
    return [f"{stem}.jpg" for stem in distinct_stems(names)]


def distinct_stems(names: Sequence[str]) -> list[str]:
    """A name of its own without a suffix for each source: its stem, or its whole name where two have the same stem.

    Names that differ in case only count as the same, since some file systems take them so.
    """
    flat = [name.replace("/", "_") for name in names]
    shared = Counter(PurePosixPath(name).stem.casefold() for name in flat)
    taken: set[str] = set()
    chosen = []
    for full in flat:
        stem = PurePosixPath(full).stem
        wanted = (stem if shared[stem.casefold()] == 1 else full)[-LONGEST_NAME:]
        name, number = wanted, 1
        while name.casefold() in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name.casefold())
        chosen.append(name)
    return chosen
