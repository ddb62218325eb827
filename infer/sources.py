"""What --input names: a picture, a folder, a pattern or a video, as a sequence of pictures to come.

NumPy and OpenCV only. Pictures are uint8 (H,W,3) RGB.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from gfl.data.picture_files import PICTURES, is_decodable, read_bytes
from gfl.errors import InputError
from gfl.words import counted, printable
from infer.listing import VIDEOS, Entry, Kind, distinct, entries_of, matches
from infer.opened import Opened, Source, check_reading, open_content
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
        return open_content(read_bytes(self.path), str(self.path), self.depth, self.most_pixels)


@dataclass(frozen=True)
class Files:
    """Picture files by name, or the part of them that a shard takes."""

    files: tuple[File, ...]
    start: int = 0  # position of the first in the whole input
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
        return Files(self.files[start:stop], start, self.notes)

    def read_with(self, depth: str, most_pixels: int | None) -> Files:
        """The same files, to be read by these rules."""
        if (depth, most_pixels) == ("auto", None):
            return self
        return replace(self, files=tuple(File(file.name, file.path, depth, most_pixels) for file in self.files))


Inputs = Files | Video | Videos


def find_inputs(*texts: str, recursive: bool = False, depth: str = "auto", most_pixels: int | None = None) -> Inputs:
    """What --input names; InputError where that is nothing, or holds no picture and no video.

    Args:
        texts: files, folders and patterns; a picture that several of them name is taken once.
        recursive: whether the folders below a folder, or below those that a pattern matches, are looked into.
        depth: how pictures of more than 8 bits a channel are scaled (`gfl.data.depth`).
        most_pixels: larger pictures and videos are refused; None: `pixel_limit`.
    """
    check_reading(depth, most_pixels)
    found = look_up(texts, recursive=recursive, most_pixels=most_pixels)
    return found.read_with(depth, most_pixels) if isinstance(found, Files) else found


def look_up(texts: Sequence[str], *, recursive: bool, most_pixels: int | None = None) -> Inputs:
    """As `find_inputs`, whatever is in the pictures."""
    if len(texts) == 1 and os.path.isfile(texts[0]):
        return one_file(Path(texts[0]).absolute(), most_pixels)
    found = [entries_at(text, recursive=recursive) for text in texts]
    for text, named in zip(texts, found, strict=True):
        if not named.entries:
            raise InputError(f"{text} {named.verb} nothing, expected at least one picture; check --input")
    videos = [text for text in texts if os.path.isfile(text) and text.lower().endswith(VIDEOS)]
    if videos and any(entry.kind is Kind.PICTURE for named in found for entry in named.entries):
        raise InputError(f"got the video {videos[0]} beside pictures, expected either; run infer for each")
    base = os.path.commonpath([named.base for named in found])
    looked = {folder for named in found for folder in named.looked}
    entries = (entry for named in found for entry in named.entries)
    entries = (entry for entry in entries if entry.kind is not Kind.FOLDER or entry.real not in looked)
    return take(entries, base, f"{', '.join(texts)} {found[0].verb if len(texts) == 1 else 'hold'}", most_pixels)


class Named(NamedTuple):
    """What a part of --input names."""

    entries: list[Entry]
    base: str  # the folder that all of them are below
    verb: str  # for messages: a folder holds, a pattern matches
    looked: frozenset[str] = frozenset()  # real paths of the folders that were looked into


def entries_at(text: str, *, recursive: bool) -> Named:
    """What a folder, a file or a pattern names; InputError where it is neither."""
    if not text:  # of a variable that is not set; as a path it would be the working directory
        raise InputError("got an empty --input, expected pictures or a video; give . for the working directory")
    path = Path(text).absolute()
    try:
        if path.is_dir():
            looked = frozenset([os.path.realpath(path)])
            return Named(list(entries_of(str(path), recursive=recursive)), str(path), "holds", looked)
        if path.is_file():  # whatever it holds: who names a file wants to hear of it
            kind = Kind.VIDEO if path.suffix.lower() in VIDEOS else Kind.PICTURE
            return Named([Entry(str(path), os.path.realpath(path), kind)], str(path.parent), "holds")
        if glob.has_magic(text) and not os.path.lexists(path):
            return pattern_entries(path, recursive=recursive)
        if path.exists():
            raise InputError(
                f"{text} is a pipe, a device or a socket, expected pictures or a video; write them into a folder"
            )
    except OSError as error:
        raise InputError(
            f"{text} cannot be read ({error.strerror}), expected pictures or a video; check --input"
        ) from error
    raise InputError(f"{text}: no such file or folder, expected pictures or a video; check --input")


def one_file(path: Path, most_pixels: int | None = None) -> Inputs:
    """A file as a video where it is one by its name, or no picture and one by its content; else as a picture."""
    if path.suffix.lower() in VIDEOS:
        return open_video(path, most_pixels=most_pixels)
    if path.suffix.lower() not in PICTURES and not is_decodable(path):
        with suppress(InputError):
            return open_video(path, most_pixels=most_pixels)
    return join([File(path.name, path)])


def pattern_entries(pattern: Path, *, recursive: bool) -> Named:
    """What a pattern matches (** for all folders below); with `recursive`, what is below matched folders too."""
    fixed = next(index for index, part in enumerate(pattern.parts) if glob.has_magic(part))
    base = str(Path(*pattern.parts[:fixed]))
    found, looked = list[Entry](), set[str]()
    for entry in matches(base, pattern.parts[fixed:], looked):
        is_looked_into = recursive and entry.kind is Kind.FOLDER
        found += entries_of(entry.path, recursive=True) if is_looked_into else [entry]
    return Named(found, base, "matches", frozenset(looked))


def take(found: Iterable[Entry], base: str, what: str, most_pixels: int | None = None) -> Inputs:
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
        raise InputError(f"{what} no picture, expected at least one picture; got {counts}")
    notes = (f"left out: {counts}",) if counts else ()
    start = len(os.path.join(base, ""))
    named = [(entry.path[start:].replace(os.sep, "/"), Path(entry.path)) for entry in taken]
    return open_videos(named, notes, most_pixels) if videos else join([File(*pair) for pair in named], notes)


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
    return Files(ordered, 0, tuple(notes))


def parse_shard(text: str) -> tuple[int, int]:
    """'2/4' -> (2, 4); InputError for anything but 1/n to n/n."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"got --shard {text}, expected i/n with i from 1 to n, e.g. --shard 1/4 to --shard 4/4")
    return int(match[1]), int(match[2])
