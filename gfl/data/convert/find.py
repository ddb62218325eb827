"""Finds the picture that an annotation names by its path on another machine, on a server or in an archive."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from gfl.data.convert.source import Notes, PictureIndex, note
from gfl.data.picture_files import PICTURES, is_picture

NOT_FOUND = "annotated pictures that were not found, left out"
PREFIX = re.compile(r"^[0-9a-f]{8}-")  # before the name of a file that was uploaded to Label Studio
SEVERAL = "annotated pictures of which several have the name, left out"


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder in a stable order, through links to folders too, each folder once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))


def index_pictures(folder: Path) -> PictureIndex:
    """The pictures below a folder; an empty index where there is none."""
    by_name: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if is_picture(path):
            by_name.setdefault(path.name.lower(), []).append(path)
            by_stem.setdefault(path.stem.lower(), []).append(path)
    return PictureIndex(folder, by_name, by_stem)


def find_picture(index: PictureIndex, name: str, notes: Notes) -> Path | None:
    """The picture of a name; None, and a note, where there is none or where it is open which.

    name: with or without folders, slashes of either kind, and the suffix. Of several files with the same last part
    it is the one that has most of the name's folders in common with it.
    """
    wanted = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not wanted:
        note(notes, NOT_FOUND, repr(name))
        return None
    last = wanted[-1].lower()
    found = index.by_name.get(last) or index.by_stem.get(last) or ()
    if len(found) > 1:
        common = [_common_tail(path.relative_to(index.folder).parts, wanted) for path in found]
        found = [path for path, count in zip(found, common, strict=True) if count == max(common)]
    if len(found) > 1:  # img.jpg and IMG.jpg in one folder, or two folders of which the name says nothing
        exact = [path for path in found if path.name == wanted[-1]]
        top = [path for path in exact if len(wanted) == 1 and path.parent == index.folder]
        found = top or exact
    if len(found) != 1:
        note(notes, SEVERAL if found else NOT_FOUND, name)
        return None
    if last not in index.by_name and Path(last).suffix in PICTURES:
        note(notes, "annotated pictures that have another suffix than the annotations say", found[0].name)
    return found[0]


def file_names(url: str) -> Iterator[str]:
    """The names that a picture of an address may have on disk, the likeliest first.

    /data/upload/1/0a1b2c3d-cat.jpg is uploaded as cat.jpg; /data/local-files/?d=cats/cat.jpg, s3://bucket/cats/cat.jpg
    and https://host/cat.jpg?token=1 are what they say. Windows' backslashes may be in any of them.
    """
    parts = urlsplit(url.replace("\\", "/"))
    named = parse_qs(parts.query).get("d", [])
    name = named[0] if named else unquote(parts.path)
    yield name
    head, _, last = name.rpartition("/")
    if PREFIX.match(last):
        yield f"{head}/{PREFIX.sub('', last)}"


def find_by_address(index: PictureIndex, address: str, notes: Notes) -> Path | None:
    """As `find_picture`, of an address on a server."""
    for name in file_names(address):
        found = find_picture(index, name, {})
        if found is not None:
            return found
    return find_picture(index, next(file_names(address)), notes)  # to write down why


def _common_tail(parts: tuple[str, ...], wanted: list[str]) -> int:
    """How many folders before the last part are the same, from the end."""
    count = 0
    for part, other in zip(reversed(parts[:-1]), reversed(wanted[:-1]), strict=False):
        if part.lower() != other.lower():
            break
        count += 1
    return count
