"""Where a YOLO data set has its pictures, splits and classes: data.yaml, darknet's obj.data, or folders alone.

data.yaml is of ultralytics' kind: `path`, then train, val and test as a folder, a list of folders, or a .txt list of
pictures, relative to `path`, to the file itself, or (Roboflow's ../train/images) to a folder beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.data.coco_json import shown
from gfl.data.convert.files import mapping, read_text, sequence
from gfl.data.convert.find import files_below
from gfl.data.convert.source import UNSPLIT, Notes, note, split_of
from gfl.data.picture_files import is_picture
from gfl.errors import InputError, first_line

NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt", "labels.txt")
DIGITS = 5  # of the number of a class; more are no class
FOLDER_NAMES = ("train", "val", "valid", "validation", "test")


class Layout(NamedTuple):
    """What is known of a YOLO data set before its label files are read."""

    root: Path
    pictures: dict[str, list[Path]]  # by split
    names: list[str] | None  # None: classes have no names but their numbers
    keypoints: bool = False


def find_layout(source: Path, images: Path | None, notes: Notes) -> Layout:
    """The layout of a folder, a data.yaml or an obj.data; `images` is where the pictures are, if not there."""
    described = _description(source)
    if described is None:
        return _from_folders(source, images or source, notes)
    if described.suffix == ".data":
        return _from_darknet(described, images, notes)
    return _from_yaml(described, images, notes)


def _description(source: Path) -> Path | None:
    if source.is_file():
        if source.suffix not in (".yaml", ".yml", ".data"):
            raise InputError(f"{source}: expected data.yaml, obj.data or a folder; give one of these as SOURCE")
        return source
    for pattern in ("data.yaml", "data.yml", "dataset.yaml", "*.yaml", "*.yml", "*.data"):
        found = sorted(source.glob(pattern))
        if len(found) > 1:
            raise InputError(
                f"{source}: got {len(found)} descriptions ({', '.join(path.name for path in found[:3])}), expected "
                "one data.yaml; give the one that you mean as SOURCE"
            )
        if found:
            return found[0]
    return None


# ---- data.yaml ----


def _from_yaml(path: Path, images: Path | None, notes: Notes) -> Layout:
    content = _read_yaml(path)
    stated = content.get("path")
    roots = [path.parent]
    if stated:
        roots = [path.parent / str(stated), path.parent, Path(str(stated)), *_tails(path.parent, str(stated))]
    roots = [*([] if images is None else [images]), *roots]
    pictures: dict[str, list[Path]] = {}
    for key in content:
        split = split_of(str(key)) if isinstance(key, str) else None
        values = content[key] if isinstance(content[key], list) else [content[key]]
        if split and content[key]:
            pictures.setdefault(split, []).extend(
                picture for value in sequence(values) for picture in _pictures_of(str(value), roots, path, notes)
            )
    if not any(pictures.values()):
        raise InputError(
            f"{path}: none of its train, val and test names pictures that are there, expected folders or lists beside "
            "the file; correct `path`, or move the pictures there"
        )
    empty = [split for split, found in pictures.items() if not found]
    return Layout(
        path.parent,
        {split: found for split, found in pictures.items() if split not in empty},
        _yaml_names(content, path),
        keypoints="kpt_shape" in content,
    )


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        import yaml
    except ImportError:
        raise InputError(f"{path}: PyYAML is needed to read it; install it with `pip install pyyaml`") from None
    try:
        text = read_text(path)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            # A few of these, each of two others, are more text than there is memory.
            raise InputError(f"{path}: got references (*name) in it, expected plain values; write them out")
        content = mapping(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: not YAML ({first_line(error)}), expected a data.yaml; correct it") from None
    if not content:
        raise InputError(f"{path}: got no names and values in it, expected a data.yaml with train, val and names")
    return content


def _yaml_names(content: dict[str, object], path: Path) -> list[str] | None:
    """The classes by number; numbers that `names` leaves out are called by their number."""
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        keys = [str(key) for key in names]
        if not all(key.isdecimal() and len(key) <= DIGITS for key in keys):
            raise InputError(
                f"{path}: got the names {shown(keys[:5])}, expected 0: name, 1: name and so on; correct `names`"
            )
        by_number = {int(key): str(value) for key, value in zip(keys, names.values(), strict=True)}
        return [by_number.get(number, str(number)) for number in range(max(by_number, default=-1) + 1)]
    if isinstance(names, list):
        if isinstance(count, int) and count != len(names):
            raise InputError(f"{path}: got nc = {count} and {len(names)} names, expected as many; correct the file")
        return [str(name) for name in names]
    return None


def _pictures_of(value: str, roots: Sequence[Path], file: Path, notes: Notes) -> list[Path]:
    """The pictures of a folder or a .txt list that data.yaml names."""
    found = next((place for root in roots for place in _places(root, value) if os.path.exists(place)), None)
    if found is None:
        found = next((place for root in roots[:2] for place in _tails(root, value) if os.path.exists(place)), None)
    if found is None:
        note(notes, f"folders or lists that {file.name} names and that are not there", value)
        return []
    if found.is_dir():
        return [path for path in files_below(found) if is_picture(path)]
    return _listed(found, [*roots, file.parent], notes)


def _places(root: Path, value: str) -> Iterator[Path]:
    """Where a value may lead; inside the folder first, as ../train/images of Roboflow's means train/images."""
    if value.startswith("../"):
        yield root / re.sub(r"^(\.\./)+", "", value)
    yield root / value


def _tails(root: Path, value: str) -> Iterator[Path]:
    """A path of another machine by its last folders, the most of them first."""
    parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    yield from (root.joinpath(*parts[start:]) for start in range(len(parts)))


def _listed(path: Path, roots: Sequence[Path], notes: Notes) -> list[Path]:
    """The pictures of a .txt list, whose lines start from its own folder, from the data set's, or from anywhere."""
    pictures = []
    for line in read_text(path).splitlines():
        value = line.strip().replace("\\", "/")
        if not value:
            continue
        starts = list(dict.fromkeys([path.parent, *roots]))
        places = [root / value for root in starts] + [place for root in starts for place in _tails(root, value)]
        found = next((place for place in places if os.path.isfile(place) and is_picture(place)), None)
        if found is None:
            note(notes, f"pictures of {path.name} that are not there, left out", value)
        else:
            pictures.append(found)
    return pictures


# ---- darknet ----


def _from_darknet(path: Path, images: Path | None, notes: Notes) -> Layout:
    """obj.data: lines `train = data/train.txt`, `valid = ...`, `names = data/obj.names`, as CVAT exports too."""
    pairs = (line.partition("=") for line in read_text(path).splitlines())
    content = {key.strip(): value.strip() for key, _, value in pairs}
    pictures: dict[str, list[Path]] = {}
    for key, value in content.items():
        split = split_of(key)
        if split and value:
            found = _pictures_of(value, [images or path.parent, path.parent, path.parent.parent], path, notes)
            pictures.setdefault(split, []).extend(found)
    pictures = {split: found for split, found in pictures.items() if found}
    if not pictures:
        raise InputError(f"{path}: none of its lists names pictures that are there; export again, with the pictures")
    named = (place for place in _tails(path.parent, content.get("names", "obj.names")) if os.path.isfile(place))
    names = next(named, None)
    return Layout(path.parent, pictures, None if names is None else _read_names(names))


# ---- folders ----


def _from_folders(source: Path, images: Path, notes: Notes) -> Layout:
    """images/ and labels/, with or without folders of splits, in either order; or pictures beside their labels."""
    pictures: dict[str, list[Path]] = {}
    for top in (images / "images", images):
        folders = [top / name for name in FOLDER_NAMES if (top / name).is_dir()]
        for folder in folders:
            found = [path for path in files_below(folder) if is_picture(path)]
            if found:
                pictures.setdefault(split_of(folder.name) or UNSPLIT, []).extend(found)
        if pictures:
            break
    else:
        found = [path for path in files_below(images) if is_picture(path)]
        if not found:
            raise InputError(f"{images}: got no pictures in it, expected images/ and labels/; give the right folder")
        pictures = {UNSPLIT: found}
    lists = [folder / name for folder in (source, source / "labels", source / "data") for name in NAME_FILES]
    names = next((path for path in lists if path.is_file()), None)
    if names is not None:
        note(notes, f"classes named by {names.relative_to(source)}", "")
    return Layout(source, pictures, None if names is None else _read_names(names))


def _read_names(path: Path) -> list[str]:
    """A name a line; empty lines at the end are none."""
    return [line.strip() for line in read_text(path).rstrip().splitlines()]
