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

from gfl.data.picture_files import JPEG_START, PICTURES, PNG_START, decode_picture, is_picture, read_bytes
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
        data = read_bytes(self.path)
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
    start: int = 0  # position of the first in the whole input
    digest: str = ""  # of the names of the whole input: shards of the same input have the same

    @property
    def total(self) -> int:
        """How many files there are."""
        return len(self.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say of files."""
        return ()

    def __iter__(self) -> Iterator[Source]:
        return iter(self.files)

    def part(self, index: int, count: int) -> Files:
        """The index-th (from 1) of `count` parts that differ by at most one picture and join to the whole."""
        start, stop = self.total * (index - 1) // count, self.total * index // count
        return Files(self.files[start:stop], start, self.digest)


@dataclass
class Video:
    """The frames of a video, numbered from 1; they can be gone through once."""

    path: Path
    total: int  # frames that its header states, 0 where it does not; how many it holds is known at its end
    notes: tuple[str, ...] = field(default=(), init=False)  # for the user, known at its end

    def __iter__(self) -> Iterator[Source]:
        stream = cv2.VideoCapture(str(self.path))
        read = 0
        try:
            while True:
                is_frame, frame = stream.read()
                if not is_frame:
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
    matches = [Path(name).absolute() for name in glob.glob(pattern, recursive=True)]
    parts = Path(pattern).absolute().parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    files = [File(path.relative_to(fixed).as_posix(), path) for path in matches if is_picture(path)]
    if not files:
        got = f"{len(matches)} that are no pictures" if matches else "nothing"
        raise InputError(f"{pattern} matches {got}, expected at least one of {', '.join(PICTURES)}; check --input")
    return join(files)


def join(files: Sequence[File]) -> Files:
    """The files as one input, in the order of their names."""
    ordered = tuple(sorted(files, key=lambda file: file.name))
    names = "\0".join(file.name for file in ordered)
    return Files(ordered, 0, hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16])


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
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"got --shard {text}, expected i/n with i from 1 to n, e.g. --shard 1/4 to --shard 4/4")
    return int(match[1]), int(match[2])


def stated_pixels(data: bytes) -> int:
    """Pixels of a JPEG or PNG, read off its header; for other formats, and where it has no size, the file's bytes."""
    if data.startswith(PNG_START):
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    at = len(JPEG_START) if data.startswith(JPEG_START) else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")  # the next segment
    return len(data)


class Opened(NamedTuple):
    """A picture that is read, and not decoded yet."""

    pixels: int  # as its header says: decoding takes memory for so many
    decode: Callable[[], Image]  # uint8 (H,W,3) RGB; raises InputError where it cannot


class Source(Protocol):
    """A picture of the input, not read yet."""

    @property
    def name(self) -> str:
        """What detections.json and messages call it."""

    def open(self) -> Opened:
        """Read it; InputError where it cannot be read."""
