"""YOLO: pictures in images/, and for each a text file of its name in labels/; a picture without one has no boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gfl.data.convert.find import files_below
from gfl.data.convert.source import Box, Notes, Picture, Request, Source, note
from gfl.data.convert.yolo_labels import read_labels
from gfl.data.convert.yolo_lists import NAME_FILES, Layout, find_layout

NO_LIST = ("train.txt", "val.txt", "valid.txt", "test.txt", "trainval.txt", "README.txt", "notes.txt")


def read_yolo(request: Request) -> Source:
    """Read a YOLO data set: a folder, its data.yaml, or darknet's obj.data."""
    notes: Notes = {}
    layout = find_layout(request.source, request.images, notes)
    used: set[Path] = set()
    splits = {
        split: [Picture(path, _boxes(path, layout, used, notes)) for path in dict.fromkeys(pictures)]
        for split, pictures in layout.pictures.items()
    }
    _note_strays(layout, used, notes)
    names = layout.names
    if names is None:
        numbers = {int(box.name) for pictures in splits.values() for picture in pictures for box in picture.boxes}
        names = [str(number) for number in sorted(numbers)]
        note(notes, "classes that no file names, called by their numbers", ", ".join(names))
    return Source(splits, list(dict.fromkeys(names)), notes, in_shares=True)


def _boxes(picture: Path, layout: Layout, used: set[Path], notes: Notes) -> Sequence[Box]:
    found = next((path for path in _label_files(picture, layout.root) if path.is_file()), None)
    if found is None:
        note(notes, "pictures without a label file, taken as pictures without objects", picture.name)
        return ()
    used.add(found)
    return read_labels(found, layout.names, layout.keypoints, notes)


def _label_files(picture: Path, root: Path) -> Iterator[Path]:
    """Where a picture's label file may be: labels/ for the last images/ of its path, beside it, or below labels/."""
    parts = picture.with_suffix(".txt").parts
    for at in reversed(range(len(parts) - 1)):
        if parts[at].lower() == "images":
            yield Path(*parts[:at], "labels", *parts[at + 1 :])
            break
    yield picture.with_suffix(".txt")
    if picture.is_relative_to(root):
        yield root / "labels" / picture.relative_to(root).with_suffix(".txt")
    yield from (folder / f"{picture.stem}.txt" for folder in (root / "labels", root))


def _note_strays(layout: Layout, used: set[Path], notes: Notes) -> None:
    """Label files to which no picture belongs."""
    beside = {next(_label_files(path, layout.root)).parent for paths in layout.pictures.values() for path in paths}
    for folder in sorted({path.parent for path in used} | {path for path in beside if "labels" in path.parts}):
        for path in files_below(folder):
            if path.suffix == ".txt" and path not in used and path.name not in (*NAME_FILES, *NO_LIST):
                used.add(path)
                note(notes, "label files without a picture, left out", path.name)
