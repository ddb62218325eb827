"""Label Studio: its JSON export (a list of tasks), JSON-MIN, and its COCO export (result.json with images/).

Of several annotations of a task one is taken: the one marked as ground truth, else the newest; skipped ones are not.
Source: https://labelstud.io/guide/task_format and /guide/export.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gfl.data.convert.coco_export import Export, Habits, is_coco, read_exports
from gfl.data.convert.files import entries, mapping, only_file, read_json, sequence
from gfl.data.convert.find import file_names, find_by_address, index_pictures
from gfl.data.convert.labelstudio_shapes import read_region
from gfl.data.convert.source import UNSPLIT, Box, Notes, Picture, PictureIndex, Request, Source, note, sorted_names
from gfl.data.picture_files import PICTURES
from gfl.data.picture_sizes import upright_size
from gfl.errors import InputError

IMAGE_KEYS = ("image", "img", "picture", "photo")  # tried first among the keys of a task's data


def read_labelstudio(request: Request) -> Source:
    """Read the folder of an export, or its .json."""
    source = request.source
    file = only_file(source, ("result.json", "*.json"), "a .json of Label Studio's (JSON, JSON-MIN or COCO)")
    content = read_json(file)
    index = index_pictures(request.images or file.parent)
    notes: Notes = {}
    if is_coco(content):
        splits, names = read_exports([Export(UNSPLIT, file, index)], Habits(sizes=False), notes)
        return Source(splits, names, notes, indexes=[index])
    if not isinstance(content, list):
        raise InputError(f"{file}: got no list of tasks, expected Label Studio's JSON, JSON-MIN or COCO; export again")
    tasks = entries(content, notes, file.name)
    pictures = [picture for task in tasks if (picture := _read_task(task, index, notes)) is not None]
    splits = {UNSPLIT: pictures}
    return Source(splits, sorted_names(splits), notes, in_shares=True, indexes=[index])


def _read_task(task: dict[str, object], index: PictureIndex, notes: Notes) -> Picture | None:
    name = f"task {task.get('id', '?')}"
    is_whole = "data" in task  # else JSON-MIN, which has the data in the task itself
    url = _image_url(mapping(task["data"]) if is_whole else task)
    if url is None:
        note(notes, "tasks without the address of a picture, left out", name)
        return None
    regions = _chosen_regions(task, name, notes) if is_whole else list(_regions_of_min(task, notes))
    if regions is None:
        return None
    path = find_by_address(index, url, notes)
    if path is None:
        return None
    return Picture(path, list(_boxes(regions, path, notes)))


def _image_url(data: dict[str, object]) -> str | None:
    """The first value that names a picture; keys that are called image or like it come first."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    names_picture = [
        key for key, value in texts.items() if any(Path(name).suffix.lower() in PICTURES for name in file_names(value))
    ]
    keys = [key for key in IMAGE_KEYS if key in texts] + names_picture
    return texts[keys[0]] if keys else None


def _chosen_regions(task: dict[str, object], name: str, notes: Notes) -> list[dict[str, object]] | None:
    """The result of the annotation that is taken; None, and a note, where there is none."""
    all_of_them = entries(task.get("annotations") or task.get("completions"), notes, name)
    kept = [each for each in all_of_them if not each.get("was_cancelled") and not each.get("skipped")]
    if sequence(task.get("predictions")):
        note(notes, "tasks with predictions of a model, which were passed over", name)
    if not kept:
        what = "tasks that were skipped, left out" if all_of_them else "tasks without an annotation, left out"
        note(notes, what, name)
        return None
    if len(kept) > 1:
        note(notes, "tasks of several annotations, of which the ground truth or else the newest was taken", name)
    newest = max(kept, key=lambda each: (bool(each.get("ground_truth")), str(each.get("created_at") or "")))
    return entries(newest.get("result"), notes, name)


def _regions_of_min(task: dict[str, object], notes: Notes) -> Iterator[dict[str, object]]:
    """JSON-MIN has the values of the regions alone, below the name of their control."""
    for key, value in task.items():
        for entry in entries(value, notes, str(key)) if isinstance(value, list) else ():
            yield {"value": entry, **{side: entry.get(side) for side in ("original_width", "original_height")}}


def _boxes(regions: list[dict[str, object]], path: Path, notes: Notes) -> Iterator[Box]:
    labelled = {region.get("id") for region in regions if str(region.get("type", "")).endswith("labels")}
    for region in regions:
        if region.get("type") in ("rectangle", "polygon", "ellipse", "brush") and region.get("id") in labelled:
            continue  # the same region stands here once more, with its label
        yield from read_region(region, path.name, partial(_aspect, region, path), notes)


def _aspect(region: dict[str, object], path: Path) -> float:
    """Width by height of the picture: as stated, and from the file where Label Studio wrote null."""
    width, height = region.get("original_width"), region.get("original_height")
    if isinstance(width, (int, float)) and isinstance(height, (int, float)) and width > 0 and height > 0:
        return width / height
    size = upright_size(path)
    return size.width / size.height
