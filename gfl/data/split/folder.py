"""The folder of a split data set, in the layout that DATA_ROOT takes: which pictures it links, under which names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from gfl.data.coco_json import CocoFile, Row
from gfl.data.links import link_picture
from gfl.data.source.picture_folder import picture_paths
from gfl.errors import InputError
from gfl.files import new_folder


class Side(NamedTuple):
    """What one side of the split gets."""

    images: list[Row]
    annotations: list[Row]
    links: list[tuple[Path, str]]  # a picture's file, and its name below train/ or val/


def find_pictures(file: Path, images: Path | None, names: Sequence[str]) -> tuple[Sequence[Path], str]:
    """The path of each picture, and a note where they are not in the folder given.

    images: the folder that the names start from; None: it is looked for around the annotation file.
    Raises InputError where no picture is found.
    """
    if images is not None:
        return picture_paths(file, images, names)
    for folder in _folders_around(file):
        with suppress(InputError):
            return picture_paths(file, folder, names)[0], ""
    raise InputError(
        f"{file}: none of its pictures was found (e.g. {names[0]}) in its folder, in images/ or in a folder of the "
        "file's name; give their folder with --images, or split without them, by class alone, with --without_pictures"
    )


def _folders_around(file: Path) -> Iterator[Path]:
    """The folder that has the split's name (annotations/instances_all.json: all/, images/all/), then the file's own."""
    for parent in (file.parent.parent, file.parent):
        for name in dict.fromkeys((file.stem.removeprefix("instances_"), file.stem)):
            yield from (folder for folder in (parent / name, parent / "images" / name) if folder.is_dir())
    yield file.parent


def placed_names(names: Sequence[str], ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """Each picture's name below train/ or val/, with its folders; and the positions of those that needed another.

    A name that would lead out of the folder (absolute, or with '..') becomes its last part, with a number where that
    is taken. The result does not depend on the order of the pictures.
    """
    placed = [name.replace("\\", "/") for name in names]
    leaving = [position for position, name in enumerate(names) if _leaves(name)]
    taken = {str(PurePosixPath(name)).lower() for name in placed}
    renamed: dict[str, str] = {}
    for position in sorted(leaving, key=lambda position: ids[position]):
        name = placed[position]
        if name not in renamed:
            last = PurePosixPath(name.rpartition("/")[2].rpartition(":")[2])
            wanted = str(last) if last.name not in ("", "..") else f"picture_{ids[position]}"
            path, number = PurePosixPath(wanted), 1
            while str(path).lower() in taken:
                number += 1
                path = PurePosixPath(wanted).with_stem(f"{PurePosixPath(wanted).stem}_{number}")
            taken.add(str(path).lower())
            renamed[name] = str(path)
        placed[position] = renamed[name]
    return placed, leaving


def _leaves(name: str) -> bool:
    windows = PureWindowsPath(name)  # it takes both kinds of slashes
    return bool(windows.anchor) or PurePosixPath(name).is_absolute() or ".." in windows.parts


def write_split(output: Path, file: CocoFile, train: Side, val: Side, *, pictures: bool, copy: bool) -> None:
    """Write annotations/instances_{train,val}.json and, with `pictures`, train/ and val/; all of it or nothing.

    copy: copy pictures instead of linking them. Raises InputError where the file system refuses.
    """
    with new_folder(output) as draft:
        (draft / "annotations").mkdir()
        for name, side in (("train", train), ("val", val)):
            lists = {"images": side.images, "annotations": side.annotations, "categories": file.categories.rows}
            content = json.dumps({**file.rest, **lists})
            (draft / "annotations" / f"instances_{name}.json").write_text(content, encoding="ascii")
            if pictures:
                (draft / name).mkdir()
            for source, placed in side.links:
                link_picture(source, draft / name / placed, copy=copy)
