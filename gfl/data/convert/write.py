"""Writes the folder that this project trains from: annotations/instances_{train,val,test}.json and the pictures.

It is written beside its place and then renamed: a folder of that name is whole, or not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gfl.data.convert.settle import Settled
from gfl.data.convert.source import Notes, note
from gfl.data.links import link_picture
from gfl.files import new_folder, to_json

DECIMALS = 4  # of a pixel


def write_converted(
    output: Path, splits: Mapping[str, Sequence[Settled]], names: Sequence[str], notes: Notes, *, copy: bool
) -> None:
    """Write all splits, or nothing; pictures that got another file name are noted.

    names: the classes in the order of their ids, from 1. Raises InputError where the file system refuses.
    """
    with new_folder(output) as draft:
        (draft / "annotations").mkdir()
        for split, pictures in splits.items():
            (draft / split).mkdir()
            file_names = distinct_names([settled.picture.path for settled in pictures], notes)
            for settled, file_name in zip(pictures, file_names, strict=True):
                place = draft / split / file_name
                if settled.picture.content is None:
                    link_picture(settled.picture.path, place, copy=copy)
                else:
                    place.write_bytes(settled.picture.content)
            text = to_json(_coco(pictures, file_names, names))
            (draft / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")


def distinct_names(paths: Sequence[Path], notes: Notes) -> list[str]:
    """A file name for each picture: its own, and where that is taken, its folder's before it, or a number after it."""
    taken: set[str] = set()
    chosen = []
    for path in paths:
        name, number = path.name, 1
        if name.lower() in taken:  # some file systems take A.jpg and a.jpg for one file
            name = f"{path.parent.name}_{path.name}"
            while name.lower() in taken:
                number += 1
                name = f"{path.parent.name}_{path.stem}_{number}{path.suffix}"
            note(notes, "pictures renamed, because another has the same name", f"{path} is {name}")
        taken.add(name.lower())
        chosen.append(name)
    return chosen


def _coco(pictures: Sequence[Settled], file_names: Sequence[str], names: Sequence[str]) -> dict[str, object]:
    ids = {name: position for position, name in enumerate(names, start=1)}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, (settled, file_name) in enumerate(zip(pictures, file_names, strict=True), start=1):
        images.append({"id": image_id, "file_name": file_name, "height": settled.height, "width": settled.width})
        for box in settled.boxes:
            x1, y1, x2, y2 = box.corners
            xywh = [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: pycocotools takes a matched annotation 0 for unmatched
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": xywh,
                    "area": round(xywh[2] * xywh[3], DECIMALS),
                    "iscrowd": int(box.crowd),
                }
            )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
