"""What --input names: a picture, a folder, a pattern or a video, as a sequence of pictures to come.

NumPy and OpenCV only. Pictures are uint8 (H,W,3) RGB.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from gfl.data.picture_files import JPEG_START, PICTURES, PNG_START, decode_picture, is_picture
from gfl.data.transforms import Image
from gfl.errors import InputError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # segments that state the picture's size


@dataclass(frozen=True)
class File:
    """A picture file."""

    name: str  # its path from the folder or the pattern's fixed part on, with forward slashes
    path: Path  # absolute: CANN's cache moves the working directory

    def open(self) -> Opened:
        """Read the file; InputError where it cannot be read."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"got no picture from {self.path} ({error.strerror}), expected a readable file; check the folder"
            ) from None
        return Opened(stated_pixels(data), partial(decode_picture, data, str(self.path)))


@dataclass(frozen=True)
class Frame:
    """A frame of a video, decoded already."""

    name: str
    image: Image

    def open(self) -> Opened:
        """The frame."""
        return Opened(self.image.shape[0] * self.image.shape[1], lambda: self.image)


@dataclass(frozen=True)
class Files:
    """Picture files by name, or the part of them that a shard takes."""

    files: tuple[File, ...]
    start: int = 0  # place of the first in the whole input
    whole: int = 0  # pictures of the whole input
    digest: str = ""  # of the whole input's names

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say of files."""
        return ()

    def __iter__(self) -> Iterator[Source]:
        return iter(self.files)

    def part(self, index: int, count: int) -> Files:
        """The index-th (from 1) of `count` parts that differ by at most one picture and join to the whole."""
        start, stop = (self.total * place // count for place in (index - 1, index))
        return Files(self.files[start:stop], start, self.whole, self.digest)


@dataclass
class Video:
    """The frames of a video, numbered from 1; to be gone through once."""

    path: Path
    total: int  # frames that it states; what it holds is known at its end
    notes: tuple[str, ...] = field(default=(), init=False)

    def __iter__(self) -> Iterator[Source]:
        stream = cv2.VideoCapture(str(self.path))
        read = 0
        try:
            while True:
                found, frame = stream.read()
                if not found:
                    break
                read += 1
                image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                yield Frame(f"{self.path.name}#{read:06d}", image)
        finally:
            stream.release()
        if read == 0:
            raise InputError(f"got no frame from {self.path}, expected a video that OpenCV reads; copy it again")
        if read < self.total:
            self.notes = (f"{self.path} ends after {read} of the {self.total} frames that it states; these are kept",)


Inputs = Files | Video


def find_inputs(text: str) -> Inputs:
    """What --input names; InputError where that is nothing, or holds no picture."""
    path = Path(text).absolute()
    try:
        if path.is_dir():
            return folder_files(path)
        if path.is_file():
            return open_video(path) if path.suffix.lower() in VIDEOS else join([File(path.name, path)])
        if glob.has_magic(text):
            return pattern_files(text)
    except OSError as error:
        raise InputError(
            f"{text} cannot be read ({error.strerror}), expected pictures or a video; check --input"
        ) from error
    raise InputError(f"{text}: no such file or folder, expected pictures or a video; check --input")


def folder_files(folder: Path) -> Files:
    """The pictures of a folder, not of those below it; InputError where there is none."""
    files = [File(path.name, path) for path in folder.iterdir() if is_picture(path)]
    if not files:
        below = next((path for path in sorted(folder.rglob("*")) if is_picture(path)), None)
        hint = f"the folders below it do: --input '{folder}/**/*'" if below else f"it takes {', '.join(PICTURES)}"
        raise InputError(f"{folder} holds no picture, expected at least one; {hint}")
    return join(files)


def pattern_files(pattern: str) -> Files:
    """The pictures that a pattern matches (** for all folders below); InputError where there is none."""
    found = [Path(name).absolute() for name in glob.glob(pattern, recursive=True)]
    parts = Path(pattern).absolute().parts
    fixed = Path(*parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
    files = [File(path.relative_to(fixed).as_posix(), path) for path in found if is_picture(path)]
    if not files:
        got = f"{len(found)} that are no pictures" if found else "nothing"
        raise InputError(f"{pattern} matches {got}, expected at least one of {', '.join(PICTURES)}; check --input")
    return join(files)


def join(files: Sequence[File]) -> Files:
    """Files in the order of their names, as one whole input."""
    ordered = tuple(sorted(files, key=lambda file: file.name))
    names = "\0".join(file.name for file in ordered)
    return Files(ordered, 0, len(ordered), hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16])


def open_video(path: Path) -> Video:
    """A video; InputError where OpenCV does not read it."""
    stream = cv2.VideoCapture(str(path))
    try:
        if not stream.isOpened():
            raise InputError(f"{path} cannot be opened as a video, expected one that OpenCV reads; copy it again")
        stated = int(stream.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        stream.release()
    return Video(path, max(stated, 0))  # streams without an index state a negative number


def parse_shard(text: str) -> tuple[int, int]:
    """'2/4' -> (2, 4); InputError for anything but 1/n to n/n."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"got --shard {text}, expected i/n with i from 1 to n, e.g. --shard 1/4 to --shard 4/4")
    return int(found[1]), int(found[2])


def stated_pixels(data: bytes) -> int:
    """Pixels of a JPEG or PNG as its header says; for other formats, and where it says nothing, the file's bytes."""
    if data.startswith(PNG_START):
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    place = len(JPEG_START) if data.startswith(JPEG_START) else len(data)
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in JPEG_FRAMES:
            return int.from_bytes(data[place + 5 : place + 7], "big") * int.from_bytes(
                data[place + 7 : place + 9], "big"
            )
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return len(data)


class Opened(NamedTuple):
    """A picture that is about to be decoded."""

    pixels: int  # as its header says, to know what the decoding takes
    decode: Callable[[], Image]  # uint8 (H,W,3) RGB; raises InputError where it cannot


class Source(Protocol):
    """A picture to come."""

    @property
    def name(self) -> str:
        """What its result and its failure are called."""

    def open(self) -> Opened:
        """Raises InputError where it cannot be read."""
