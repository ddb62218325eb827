"""What a folder or a pattern holds: each entry once, with what it is, so that what is no input can be counted.

Folders are looked into once each, by their real paths, so that circles of links end. Hard links are files of their own.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from gfl.data.picture_files import PICTURES, is_decodable
from infer.output_folder import DRAWN, FILES, PARTS

VIDEOS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".asf", ".m2ts", ".mts", ".mxf", ".ogv", ".vob"),
)
RESULT = re.compile("|".join([*map(re.escape, FILES), fnmatch.translate(PARTS)]))  # names of files that a run writes


class Kind(Enum):
    """What an entry of a folder is."""

    FILE = "file that was not asked yet what it holds"
    PICTURE = "picture"
    VIDEO = "video"
    OTHER = "file of another kind"
    RESULT = "part of a run's results"
    HIDDEN = "hidden file or folder"
    FOLDER = "folder"
    SPECIAL = "pipe, device or socket"
    BROKEN = "link that leads nowhere"
    CLOSED = "folder that cannot be looked into"


class Entry(NamedTuple):
    """An entry of a folder."""

    path: str  # absolute; a str, since there may be a million
    real: str  # without links
    kind: Kind


def scan(folder: str, *, hidden: bool = False) -> list[Entry]:
    """The entries of a folder by name; the folder itself, as a closed one, where it cannot be looked into.

    hidden: whether names that begin with a dot are taken as others.
    """
    real = os.path.realpath(folder)
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return [Entry(folder, real, Kind.CLOSED)]
    start, real_start = os.path.join(folder, ""), os.path.join(real, "")
    results = {entry.name for entry in listed if RESULT.fullmatch(entry.name)}
    if results:
        results.add(DRAWN)

    def entry_of(entry: os.DirEntry[str]) -> Entry:
        path = start + entry.name
        own = os.path.realpath(path) if entry.is_symlink() else real_start + entry.name
        if entry.name in results:
            return Entry(path, own, Kind.RESULT)
        if entry.name.startswith(".") and not hidden:
            return Entry(path, own, Kind.HIDDEN)
        return Entry(path, own, type_of(entry))

    return [entry_of(entry) for entry in listed]


def type_of(entry: os.DirEntry[str]) -> Kind:
    """What the file system says of an entry, where links lead."""
    try:
        if entry.is_dir():
            return Kind.FOLDER
        if entry.is_file():
            return Kind.FILE
    except OSError:  # links in a circle
        return Kind.BROKEN
    return Kind.SPECIAL if os.path.exists(entry.path) else Kind.BROKEN


def settle(entry: Entry) -> Entry:
    """The entry, a file with what it holds: by its name or, where that does not say it, by its first bytes."""
    if entry.kind is not Kind.FILE:
        return entry
    suffix = os.path.splitext(entry.path)[1].lower()
    if suffix in VIDEOS:
        return Entry(entry.path, entry.real, Kind.VIDEO)
    is_picture = suffix in PICTURES or is_decodable(Path(entry.path))
    return Entry(entry.path, entry.real, Kind.PICTURE if is_picture else Kind.OTHER)


def walk(folder: str, visited: set[str]) -> Iterator[tuple[str, list[Entry]]]:
    """A folder and all folders below it, but those visited, each with its entries."""
    waiting, linked = [(folder, os.path.realpath(folder))], list[tuple[str, str]]()
    while waiting or linked:
        # Links come last, so that a folder goes by its own name where it has one here.
        path, real = waiting.pop() if waiting else linked.pop(0)
        if real in visited:
            continue
        visited.add(real)
        entries = scan(path)
        yield path, entries
        for entry in entries:
            if entry.kind is Kind.FOLDER:
                (linked if os.path.islink(entry.path) else waiting).append((entry.path, entry.real))


def entries_of(folder: str, *, recursive: bool) -> Iterator[Entry]:
    """The entries of a folder; with `recursive` those of the folders below it too, and not the folders themselves."""
    if not recursive:
        yield from map(settle, scan(folder))
        return
    for _, entries in walk(folder, set()):
        yield from (settle(entry) for entry in entries if entry.kind is not Kind.FOLDER)


def matches(folder: str, parts: Sequence[str], looked: set[str]) -> Iterator[Entry]:
    """The entries that a pattern matches, part by part, below a folder; ** stands for it and all folders below.

    looked: takes the real paths of the folders whose entries are held against the last part.
    """
    part, rest = parts[0], parts[1:]
    if part == "**":
        for place, _ in walk(folder, set()):
            yield from matches(place, rest or ("*",), looked)
    elif rest and not glob.has_magic(part):
        below = os.path.join(folder, part)
        if os.path.isdir(below):
            yield from matches(below, rest, looked)
    else:
        if not rest and glob.has_magic(part):
            looked.add(os.path.realpath(folder))
        is_match = re.compile(fnmatch.translate(os.path.normcase(part))).match
        for entry in scan(folder, hidden=part.startswith(".")):
            if entry.kind is Kind.CLOSED:
                yield entry
            elif is_match(os.path.normcase(os.path.basename(entry.path))):
                if not rest:
                    yield settle(entry)
                elif entry.kind is Kind.FOLDER:
                    yield from matches(entry.path, rest, looked)


def distinct(entries: Iterable[Entry], base: str) -> tuple[list[Entry], int]:
    """The entries without those that lead to the same by links, and how many these are; one without links is kept."""
    real_start, start = os.path.join(os.path.realpath(base), ""), len(os.path.join(base, ""))

    def by_links(entry: Entry) -> tuple[bool, str]:
        name = entry.path[start:]
        return real_start + name != entry.real, name

    of_real: dict[str, Entry] = {}
    repeated = 0
    for entry in sorted(dict.fromkeys(entries), key=by_links):
        if of_real.setdefault(entry.real, entry) is not entry:
            repeated += 1
    return list(of_real.values()), repeated
