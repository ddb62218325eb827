"""What every format is read into: pictures with boxes, a split at a time, and notes of what was changed or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

Corners: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2
Notes: TypeAlias = dict[str, list[str]]  # what was done -> the name of each thing that it was done to

UNSPLIT = "all"  # the one split of a source that knows none
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLITS = ("train", "val", "test")


class Box(NamedTuple):
    """A box of a class."""

    name: str
    corners: Corners  # px, or shares of the picture where the source says so
    crowd: bool = False  # neither learned nor counted


class Picture(NamedTuple):
    """A picture of the source and its boxes."""

    path: Path
    boxes: Sequence[Box]
    stated_hw: tuple[int, int] | None = None  # px, of the picture as it was annotated, where the source says
    content: bytes | None = None  # the file itself, where the annotations hold it and there is none at `path`


class PictureIndex(NamedTuple):
    """The pictures below a folder, by their file names and stems in lower case."""

    folder: Path
    by_name: Mapping[str, Sequence[Path]]
    by_stem: Mapping[str, Sequence[Path]]


class Request(NamedTuple):
    """What the user asks to be read."""

    source: Path
    images: Path | None = None  # where the pictures are, if not with the source
    attribute: str | None = None  # the attribute that holds the class, for tools that have several


class Source(NamedTuple):
    """A data set of another format, read."""

    splits: Mapping[str, Sequence[Picture]]  # by the names of SPLITS, or UNSPLIT alone
    names: Sequence[str]  # the classes in order, those without boxes too
    notes: Notes
    in_shares: bool = False  # the corners of the boxes are shares of the upright picture
    indexes: Sequence[PictureIndex] = ()  # the pictures that the annotations chose from


def note(notes: Notes, what: str, name: str) -> None:
    """Write down one thing that was changed or left out."""
    notes.setdefault(what, []).append(name)


def split_of(name: str) -> str | None:
    """'train', 'val' or 'test' by what tools call them; None for another word."""
    return SPLIT_OF.get(name.strip().lower())


def sorted_names(splits: Mapping[str, Sequence[Picture]]) -> list[str]:
    """The classes of all boxes in alphabetical order, for a source that has no order of its own."""
    return sorted({box.name for pictures in splits.values() for picture in pictures for box in picture.boxes})
