"""What --input names: a picture, a folder, a pattern or a video, as a sequence of pictures to come.

NumPy and OpenCV only. Pictures are uint8 (H,W,3) RGB.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gfl.data.depth import check_depth
from gfl.data.picture_files import PICTURES, decode_picture, is_decodable, read_bytes
from gfl.data.picture_headers import holds_several, stated_pixels
from gfl.errors import InputError
from gfl.words import counted, printable
from infer.listing import VIDEOS, Entry, Kind, distinct, entries_of, matches
from infer.opened import Opened, Source
from infer.videos import Video, Videos, open_video, open_videos

LISTED = 5  # names in a sentence


@dataclass(frozen=True)
class File:
    """A picture file."""

    name: str  # its path from the folder or the pattern's fixed part on, with forward slashes
    path: Path  # absolute: CANN's cache moves the working directory
    depth: str = "auto"  # how more than 8 bits a channel are scaled
    most_pixels: int | None = None  # larger pictures are refused; None: the reader's own limit

    def open(self) -> Opened:
        """Read the file; InputError where it cannot be read."""
        data = read_bytes(self.path)
        # Where no header says it, decoding takes about what the file has; where the file has more than three bytes a
        # pixel, its channels have more than one.
        pixels = max(stated_pixels(data) or len(data), len(data) // 3)
        decode = partial(decode_picture, data, str(self.path), self.depth, self.most_pixels)
        return Opened(pixels, decode, holds_several(data))


@dataclass(frozen=True)
class Files:
    """Picture files by name, or the part of them that a shard takes."""

    files: tuple[File, ...]
    start: int = 0  # position of the first in the whole input
    digest: str = ""  # of the names of the whole input: shards of the same input have the same
    notes: tuple[str, ...] = ()  # for the user: what beside the files is no input

    @property
    def total(self) -> int:
        """How many files there are."""
        return len(self.files)

    def __iter__(self) -> Iterator[Source]:
        return iter(self.files)

    def part(self, index: int, count: int) -> Files:
        """The index-th (from 1) of `count` parts that differ by at most one picture and join to the whole."""
        start, stop = self.total * (index - 1) // count, self.total * index // count
        return Files(self.files[start:stop], start, self.digest, self.notes)

    def read_with(self, depth: str, most_pixels: int | None) -> Files:
        """The same files, to be read by these rules."""
        if (depth, most_pixels) == ("auto", None):
            return self
        return replace(self, files=tuple(File(file.name, file.path, depth, most_pixels) for file in self.files))


Inputs = Files | Video | Videos


def find_inputs(text: str, *, recursive: bool = False, depth: str = "auto", most_pixels: int | None = None) -> Inputs:
    """What --input names; InputError where that is nothing, or holds no picture and no video.

    Args:
        text: a file, a folder or a pattern.
        recursive: whether the folders below a folder, or below those that a pattern matches, are looked into.
        depth: how pictures of more than 8 bits a channel are scaled (`gfl.data.depth`).
        most_pixels: larger pictures are refused; None: `pixel_limit`.
    """
    if most_pixels is not None and most_pixels < 1:
        raise InputError(f"got --most_pixels {most_pixels}, expected at least 1; omit it for the default")
    check_depth(depth)
    found = look_up(text, recursive=recursive)
    return found.read_with(depth, most_pixels) if isinstance(found, Files) else found


def look_up(text: str, *, recursive: bool) -> Inputs:
    """As `find_inputs`, whatever is in the files."""
    path = Path(text).absolute()
    try:
        if path.is_dir():
            return take(entries_of(str(path), recursive=recursive), str(path), f"{text} holds")
        if path.is_file():
            return one_file(path)
        if glob.has_magic(text) and not os.path.lexists(path):
            return pattern_inputs(path, text, recursive=recursive)
        if path.exists():
            raise InputError(
                f"{text} is a pipe, a device or a socket, expected pictures or a video; write them into a folder"
            )
    except OSError as error:
        raise InputError(
            f"{text} cannot be read ({error.strerror}), expected pictures or a video; check --input"
        ) from error
    raise InputError(f"{text}: no such file or folder, expected pictures or a video; check --input")


def one_file(path: Path) -> Inputs:
    """A file as a video where it is one by its name, or no picture and one by its content; else as a picture."""
    if path.suffix.lower() in VIDEOS:
        return open_video(path)
    if path.suffix.lower() not in PICTURES and not is_decodable(path):
        with suppress(InputError):
            return open_video(path)
    return join([File(path.name, path)])


def pattern_inputs(pattern: Path, what: str, *, recursive: bool) -> Inputs:
    """The pictures, or the videos, that a pattern matches (** for all folders below); InputError without any."""
    fixed = next(index for index, part in enumerate(pattern.parts) if glob.has_magic(part))
    base = str(Path(*pattern.parts[:fixed]))
    found: list[Entry] = []
    for entry in matches(base, pattern.parts[fixed:]):
        is_looked_into = recursive and entry.kind is Kind.FOLDER
        found += entries_of(entry.path, recursive=True) if is_looked_into else [entry]
    return take(found, base, f"{what} matches")


def take(found: Iterable[Entry], base: str, what: str) -> Inputs:
    """The pictures among the entries of a folder, or its videos where it has no picture; the rest is counted.

    Raises InputError, which begins with `what`, where there is neither.
    """
    entries, repeated = distinct(found, base)
    pictures = [entry for entry in entries if entry.kind is Kind.PICTURE]
    videos = [] if pictures else [entry for entry in entries if entry.kind is Kind.VIDEO]
    taken = pictures or videos
    rest = [entry for entry in entries if entry.kind is not taken[0].kind] if taken else entries
    counts = ", ".join(counted_rest(rest, repeated))
    if not taken:
        rest_of_it = f"got {counts}" if counts else "check --input"
        raise InputError(
            f"{what} {'no picture' if entries else 'nothing'}, expected at least one picture; {rest_of_it}"
        )
    notes = (f"left out: {counts}",) if counts else ()
    start = len(os.path.join(base, ""))
    named = [(entry.path[start:].replace(os.sep, "/"), Path(entry.path)) for entry in taken]
    return open_videos(named, notes) if videos else join([File(*pair) for pair in named], notes)


def counted_rest(rest: Sequence[Entry], repeated: int) -> Iterator[str]:
    """What is no input, counted kind by kind, and how to have it where that is easy."""
    of_kind: dict[Kind, list[str]] = {}
    for entry in rest:
        of_kind.setdefault(entry.kind, []).append(entry.path)
    if others := of_kind.get(Kind.OTHER):
        suffixes = sorted({suffix_of(path) or "without a suffix" for path in others})
        yield f"{counted(len(others), 'file of another kind', 'files of other kinds')} ({listed(suffixes)})"
    if videos := of_kind.get(Kind.VIDEO):
        suffixes = sorted({suffix_of(path) for path in videos})
        yield f"{counted(len(videos), 'video')} beside the pictures: --input '*{suffixes[0]}'"
    if repeated:
        yield f"{counted(repeated, 'link')} to what is taken by another name"
    for kind, one, several in (
        (Kind.RESULT, "part of a run's results", "parts of a run's results"),
        (Kind.HIDDEN, "hidden file or folder", "hidden files and folders"),
        (Kind.SPECIAL, "pipe, device or socket", "pipes, devices or sockets"),
        (Kind.BROKEN, "link that leads nowhere", "links that lead nowhere"),
        (Kind.CLOSED, "folder that cannot be looked into", "folders that cannot be looked into"),
    ):
        if paths := of_kind.get(kind):
            yield f"{counted(len(paths), one, several)} ({listed(sorted(map(os.path.basename, paths)))})"
    if folders := of_kind.get(Kind.FOLDER):
        yield f"{counted(len(folders), 'folder')} not looked into: --recursive"


def suffix_of(path: str) -> str:
    """How a file's name ends, in small letters, with the dot."""
    return os.path.splitext(path)[1].lower()


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join([*map(printable, names[:LISTED]), *(["..."] if len(names) > LISTED else [])])


def join(files: Sequence[File], notes: Sequence[str] = ()) -> Files:
    """The files as one input, in the order of their names."""
    ordered = tuple(sorted(files, key=lambda file: file.name))
    names = "\0".join(file.name for file in ordered)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Files(ordered, 0, digest, tuple(notes))


def parse_shard(text: str) -> tuple[int, int]:
    """'2/4' -> (2, 4); InputError for anything but 1/n to n/n."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"got --shard {text}, expected i/n with i from 1 to n, e.g. --shard 1/4 to --shard 4/4")
    return int(match[1]), int(match[2])
