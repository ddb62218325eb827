"""CVAT: its own XML ('CVAT for images 1.1' and 'CVAT for video 1.1') and its COCO export.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ and .../xml_format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from gfl.data.convert.coco_export import Export, Habits, read_exports
from gfl.data.convert.cvat_shapes import SHAPES, read_shape
from gfl.data.convert.files import only_file, read_xml, stated_size
from gfl.data.convert.find import find_picture, index_pictures
from gfl.data.convert.source import (
    UNSPLIT,
    Box,
    Notes,
    Picture,
    PictureIndex,
    Request,
    Source,
    note,
    sorted_names,
    split_of,
)
from gfl.errors import InputError

COCO_FILES = "annotations/instances_*.json"


def read_cvat(request: Request) -> Source:
    """Read the folder of a CVAT export, its annotations.xml, or its COCO file."""
    source = request.source
    if source.suffix == ".json" or (source.is_dir() and any(source.glob(COCO_FILES))):
        return _read_coco(request)
    file = only_file(source, ("annotations.xml", "*.xml"), "annotations.xml or annotations/instances_default.json")
    root = read_xml(file)
    if root.tag != "annotations":
        raise InputError(
            f"{file}: got <{root.tag}> at its root, expected CVAT's <annotations>; export it as 'CVAT for images 1.1'"
        )
    index = index_pictures(request.images or file.parent)
    notes: Notes = {}
    splits = _read_images(root, index, notes)
    if root.find("track") is not None:
        splits = _read_tracks(root, index, notes)
    names = list(
        dict.fromkeys(name for label in root.iter("label") if (name := (label.findtext("name") or "").strip()))
    )
    found = sorted_names(splits)
    joints = {label.findtext("name") for label in root.iter("label") if label.find("parent") is not None}
    names = [name for name in names if name not in joints or name in found]  # the points of a skeleton are no classes
    return Source(splits, names + [name for name in found if name not in names], notes, indexes=[index])


def _read_images(root: Element, index: PictureIndex, notes: Notes) -> dict[str, list[Picture]]:
    """The <image> elements, by the subset that a project's export gives each."""
    subsets = {element.get("subset", "") for element in root.iter("image")}
    known = {subset: split for subset in subsets if (split := split_of(subset)) is not None}
    if known and known.keys() != subsets:
        others = ", ".join(sorted(repr(subset) for subset in subsets - known.keys()))
        note(notes, "subsets that are no train, validation or test, taken as train", others)
    splits: dict[str, list[Picture]] = {}
    for element in root.iter("image"):
        subset = element.get("subset", "")
        name = element.get("name", "")
        path = find_picture(index, f"{subset}/{name}" if subset else name, notes)
        if path is not None:
            boxes = [
                box for child in element if (box := read_shape(child, child.get("label"), name, notes)) is not None
            ]
            stated = stated_size(element.get("height"), element.get("width"))
            split = known.get(subset, "train") if known else UNSPLIT
            splits.setdefault(split, []).append(Picture(path, boxes, stated))
    return splits


def _read_tracks(root: Element, index: PictureIndex, notes: Notes) -> dict[str, list[Picture]]:
    """The <track> elements: every frame of a track is in the file, with the frames between keys worked out by CVAT."""
    boxes: dict[int, list[Box]] = {}
    for track in root.iter("track"):
        for child in track:
            frame = child.get("frame", "")
            if child.tag in SHAPES and child.get("outside") != "1" and frame.isdecimal():
                box = read_shape(child, track.get("label"), f"frame {frame}", notes)
                boxes.setdefault(int(frame), []).extend([] if box is None else [box])
    frames = _frame_files(index)
    if not frames:
        raise InputError(
            f"{index.folder}: got a 'CVAT for video' export without its frames (images/frame_000000.png and so on); "
            "export it again with 'Save images', or as 'CVAT for images 1.1'"
        )
    for number in sorted(set(boxes) - set(frames)):
        note(notes, "annotated frames without a picture, left out", f"frame {number}")
    stated = stated_size(root.findtext(".//original_size/height"), root.findtext(".//original_size/width"))
    return {UNSPLIT: [Picture(path, boxes.get(number, []), stated) for number, path in sorted(frames.items())]}


def _frame_files(index: PictureIndex) -> Mapping[int, Path]:
    """frame_000012.png -> 12."""
    numbered = ((stem.removeprefix("frame_"), paths[0]) for stem, paths in index.by_stem.items() if "frame_" in stem)
    return {int(number): path for number, path in numbered if number.isdecimal()}


def _read_coco(request: Request) -> Source:
    """annotations/instances_default.json, or one file a subset; pictures in images/, or in a folder of the subset."""
    source = request.source
    files = [source] if source.is_file() else sorted(source.glob(COCO_FILES))
    notes: Notes = {}
    exports = []
    for file in files:
        subset = file.stem.removeprefix("instances_")
        root = file.parent.parent if file.parent.name == "annotations" else file.parent
        folders = [root / "images" / subset, root / subset, root / "images", root]
        folder = request.images or next(folder for folder in folders if folder.is_dir())
        split = split_of(subset)
        if split is None and len(files) > 1:
            note(notes, "subsets that are no train, validation or test, taken as train", subset)
            split = "train"
        exports.append(Export(split or UNSPLIT, file, index_pictures(folder)))
    splits, names = read_exports(exports, Habits(crowds=False), notes)
    return Source(splits, names, notes, indexes=[export.found_in for export in exports])
