"""Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/*.txt, or .xml files beside their pictures.

VOC's pixels start at 1 and a box ends with its last pixel, so a box of the pixels 1 to 10 is 0 to 10 here. Many tools
write coordinates from 0 into the same form: a source in which a box begins at 0 or has fractions is taken as it is.
What is marked difficult becomes a crowd, which is neither learned nor counted: VOC's own evaluation does so.
Source: VOC2012's development kit, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from gfl.data.convert.files import numbers, read_text, read_xml, stated_size
from gfl.data.convert.find import files_below, find_picture, index_pictures
from gfl.data.convert.source import (
    UNSPLIT,
    Box,
    Corners,
    Notes,
    Picture,
    PictureIndex,
    Request,
    Source,
    note,
    sorted_names,
)
from gfl.errors import InputError

LISTS = (("train", "train"), ("val", "val"), ("test", "test"))
SIDES = ("xmin", "ymin", "xmax", "ymax")
FROM_1 = "VOC files with pixels counted from 1, as VOC does: boxes moved by a pixel"
FROM_0 = "VOC files with pixels counted from 0, as their numbers show: boxes taken as they are"


class Annotated(NamedTuple):
    """An .xml file and its picture."""

    file: Path
    picture: Picture


def read_voc(request: Request) -> Source:
    """Read a folder of VOC annotations."""
    notes: Notes = {}
    root = request.source
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = [path for path in files_below(folder) if path.suffix.lower() == ".xml"] if root.is_dir() else [root]
    if not files:
        raise InputError(f"{root}: got no .xml file in it, expected VOC's annotations; give the folder of Annotations")
    pictures = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root if root.is_dir() else root.parent
    index = index_pictures(request.images or pictures)
    annotated = [one for path in files if (one := _read_file(path, index, notes)) is not None]
    annotated = _from_zero(annotated, notes)
    splits = _split(root / "ImageSets" / "Main", annotated, notes)
    return Source(splits, sorted_names(splits), notes, indexes=[index])


def _read_file(path: Path, index: PictureIndex, notes: Notes) -> Annotated | None:
    try:
        root = read_xml(path)
    except InputError as error:
        note(notes, "annotation files that cannot be read, left out", str(error))
        return None
    if root.tag != "annotation":
        note(notes, "files that are no VOC annotation, left out", path.name)
        return None
    found = _find(path, _text(root, "filename"), index, notes)
    if found is None:
        return None
    size = root.find("size")
    stated = None if size is None else stated_size(_text(size, "height"), _text(size, "width"))
    boxes = [box for element in root.findall("object") if (box := _box(element, path.name, notes)) is not None]
    return Annotated(path, Picture(found, boxes, stated))


def _find(path: Path, named: str, index: PictureIndex, notes: Notes) -> Path | None:
    """The picture of an .xml: as it names it, or of the .xml's own name, as files are renamed without their .xml."""
    tried: Notes = {}
    found = find_picture(index, named, tried) if named else None
    if found is None:
        found = find_picture(index, (path.parent / path.stem).as_posix(), notes)
        if found is not None and named:
            note(notes, "pictures found by the name of their .xml, which names another", path.name)
    return found


def _box(element: Element, file: str, notes: Notes) -> Box | None:
    name = _text(element, "name")
    bounds = element.find("bndbox")
    if not name or bounds is None:
        note(notes, f"objects without a {'box' if name else 'name'}, left out", f"{file} ({name})")
        return None
    try:
        x1, y1, x2, y2 = numbers(_text(bounds, side) for side in SIDES)
    except ValueError:
        note(notes, "boxes of which a side is no number, left out", f"{file} ({name})")
        return None
    difficult = _text(element, "difficult") == "1"
    for mark, what in (
        ("difficult", "marked difficult: kept as crowds, neither learned nor counted"),
        ("truncated", "marked truncated: boxes like any other"),
    ):
        if _text(element, mark) == "1":
            note(notes, f"objects {what}", f"{file} ({name})")
    return Box(name, (x1, y1, x2, y2), crowd=difficult)


def _text(element: Element, child: str) -> str:
    return (element.findtext(child) or "").strip()


def _from_zero(annotated: Sequence[Annotated], notes: Notes) -> list[Annotated]:
    """Bring boxes that count pixels from 1 to numbers from 0; the whole source counts in one way."""
    corners = [box.corners for one in annotated for box in one.picture.boxes]
    from_0 = any(min(x1, y1) < 1 or not all(map(float.is_integer, (x1, y1, x2, y2))) for x1, y1, x2, y2 in corners)
    if corners:
        note(notes, FROM_0 if from_0 else FROM_1, "")
    if from_0:
        return list(annotated)
    return [
        one._replace(picture=one.picture._replace(boxes=[_moved(box) for box in one.picture.boxes]))
        for one in annotated
    ]


def _moved(box: Box) -> Box:
    x1, y1, x2, y2 = box.corners
    corners: Corners = (x1 - 1, y1 - 1, x2, y2)
    return box._replace(corners=corners)


def _split(lists: Path, annotated: Sequence[Annotated], notes: Notes) -> dict[str, list[Picture]]:
    """The pictures of each list of ImageSets/Main; all of them together where there is no list."""
    stems = {split: _stems(lists / f"{name}.txt") for name, split in LISTS if (lists / f"{name}.txt").is_file()}
    if "train" not in stems and (lists / "trainval.txt").is_file():
        val = set(stems.get("val", ()))
        stems["train"] = [stem for stem in _stems(lists / "trainval.txt") if stem not in val]
    if not stems:
        return {UNSPLIT: [one.picture for one in annotated]}
    by_stem = {one.file.stem: one.picture for one in annotated}
    for stem in sorted(set(by_stem) - {stem for some in stems.values() for stem in some}):
        note(notes, "annotated pictures in no list of ImageSets/Main, left out", by_stem[stem].path.name)
    splits: dict[str, list[Picture]] = {}
    for split, some in stems.items():
        for stem in some:
            if stem not in by_stem:
                note(notes, f"names in {split}.txt without an annotated picture, left out", stem)
        splits[split] = [by_stem[stem] for stem in some if stem in by_stem]
    return splits


def _stems(path: Path) -> list[str]:
    """The names of a list, each once; a line may end with 1, 0 or -1, whether the class of the list is there."""
    stems = []
    for line in read_text(path).splitlines():
        words = line.strip().rsplit(maxsplit=1)
        if words:
            stems.append(words[0] if len(words) == 2 and words[1] in ("1", "0", "-1") else line.strip())
    return list(dict.fromkeys(stems))
