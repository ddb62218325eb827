"""The ids that a COCO file gives to pictures and classes, so that results can be evaluated against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.class_names import map_classes
from gfl.data.coco_json import CocoFile, class_names, image_ids_by_name, read_coco_file
from gfl.errors import InputError
from gfl.files import sha256_of
from gfl.words import printable
from infer.sources import Files, Inputs


class Annotated(NamedTuple):
    """A COCO file, as far as results need it."""

    file: CocoFile
    image_ids: Sequence[int]  # of the inputs in order
    sha256: str


def read_annotated(annotations: Path, inputs: Inputs) -> Annotated:
    """The file and its ids of the pictures, by their names; a name without its folders will do where it is unique.

    Raises InputError for a file that is no COCO, for pictures that it does not name, and for a video.
    """
    if not isinstance(inputs, Files):
        raise InputError(f"got --annotations {annotations} for a video, expected picture files; omit --annotations")
    file = read_coco_file(annotations, needed=("images",))
    ids = image_ids_by_name(file)
    ids_without_folder: dict[str, list[int]] = {}
    for name, image_id in ids.items():
        ids_without_folder.setdefault(name.rpartition("/")[2], []).append(image_id)
    image_ids, missing = [], []
    for picture in inputs.files:
        candidates = [ids[picture.name]] if picture.name in ids else ids_without_folder.get(picture.path.name, [])
        if len(candidates) == 1:
            image_ids += candidates
        else:
            missing.append(picture.name)
    if missing:
        first = ", ".join(map(printable, missing[:3]))
        raise InputError(
            f"{annotations} does not name {len(missing)} of {inputs.total} pictures ({first}), "
            "expected all of them, each once; give the annotations of these pictures, or omit --annotations"
        )
    clash = len(image_ids) - len(set(image_ids))
    if clash:
        raise InputError(
            f"{annotations} gives {clash} of {inputs.total} pictures the id of another, expected one id each; give the "
            "annotations of these pictures, or omit --annotations"
        )
    return Annotated(file, image_ids, sha256_of(Path(annotations).expanduser()))


class CategoryIds(NamedTuple):
    """The category ids that results have."""

    ids: tuple[int | None, ...]  # label -> category id; None: detections of the class are left out
    names: tuple[str, ...]  # label -> what the category is called
    notes: tuple[str, ...]  # for the user


def annotated_category_ids(
    annotated: Annotated, names: Sequence[str], category_ids: Sequence[int], class_map: Sequence[str]
) -> CategoryIds:
    """The file's category ids of the model's classes, matched by name as gfl.evaluate does.

    Raises InputError as `map_classes`, for a class of the file that the model does not know among others.
    """
    file = annotated.file
    if not file.categories.rows:
        note = f"{file.path} has no categories; the category ids are those of the model"
        if class_map:
            raise InputError(f"got --class_map, but {file.path} has no categories, expected some; omit --class_map")
        return CategoryIds(tuple(category_ids), tuple(names), (note,))
    file_names = class_names(file)
    classes = map_classes(names, file_names, str(file.path), class_map)
    # What gfl.evaluate does not count is not written here.
    notes = tuple(note.replace("are not counted", "are not written") for note in classes.notes)
    found = [name if key is None else file_names[key] for key, name in zip(classes.category_ids, names, strict=True)]
    return CategoryIds(classes.category_ids, tuple(found), notes)
