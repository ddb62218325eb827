"""COCO annotation files -> pictures with boxes, by the rules of the reference's loader.

Legend: N annotations, G boxes of a picture, I crowd boxes of a picture, 4 = x1 y1 x2 y2 in original pixels.
Source: reference.md "Recipe" (mmdetection's CocoDataset), https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gfl.errors import InputError

Row: TypeAlias = dict[str, object]  # one entry of the file's images, annotations or categories
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

PROBED_PICTURES = 20  # files looked for, to tell a wrong folder from a few missing pictures
LARGEST_NUMBER = 1e9  # pixels: far beyond any picture; also false for NaN and infinity


@dataclass(frozen=True, eq=False)  # arrays have no single truth value: compare field by field
class Picture:
    """One picture of a data set and its boxes, in original pixels, clipped to the picture."""

    id: int
    file_name: str
    path: Path
    height: int
    width: int
    boxes_xyxy: npt.NDArray[np.float32]  # (G,4), in the file's order
    labels: npt.NDArray[np.int32]  # (G,), 0-based: the place of the category id among the sorted ids
    ignored_xyxy: npt.NDArray[np.float32]  # (I,4) crowd boxes


@dataclass(frozen=True, eq=False)
class CocoData:
    """What one annotation file says: the pictures in order of their ids, the classes, and what was left out."""

    annotations: Path
    images: Path
    pictures: tuple[Picture, ...]
    names: tuple[str, ...]  # label -> class name
    category_ids: tuple[int, ...]  # label -> the file's category id
    without_boxes: int  # pictures of the file without a box to learn from; among `pictures` if keep_empty
    dropped_boxes: int  # under a pixel, without area, or marked 'ignore'
    clipped_boxes: int  # kept boxes (crowds too) that reached over the border of their picture


@dataclass(frozen=True)
class _Boxes:
    """The kept boxes of all pictures, in the file's order."""

    xyxy: npt.NDArray[np.float32]  # (N,4)
    picture: Ints  # (N,) place of the picture in order of ids
    labels: npt.NDArray[np.int32]  # (N,)
    crowd: Mask  # (N,)
    dropped: int
    clipped: int


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Reading makes millions of objects and no cycles: without the collector it takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_collector_paused()
def read_coco(annotations: str | Path, images: str | Path, *, keep_empty: bool) -> CocoData:
    """Read a COCO annotation file; the picture files themselves are only probed.

    Args:
        annotations: the JSON file, e.g. annotations/instances_train2017.json.
        images: the folder that the file's `file_name`s start from.
        keep_empty: keep pictures without (non-crowd) boxes; evaluation does, the reference's training does not.

    Raises:
        InputError: the file or the folder is missing, is not COCO, or contradicts itself, or no picture is left.
    """
    file, folder = Path(annotations), Path(images)
    image_rows, annotation_rows, category_rows = _read_tables(file)
    image_ids = _unique_ids(file, "image", image_rows)
    if len(image_ids) and image_ids.min() < 0:
        raise InputError(f"{file}: got the image id {image_ids.min()}, expected 0 or more; number the images anew")
    sizes_hw = np.stack([_positive(file, "image", image_rows, key) for key in ("height", "width")], axis=1)
    category_ids = _unique_ids(file, "category", category_rows)
    names = dict(zip(category_ids.tolist(), _texts(file, "category", category_rows, "name"), strict=True))
    by_id = np.argsort(image_ids)
    boxes = _read_boxes(file, annotation_rows, image_ids[by_id], sizes_hw[by_id], np.sort(category_ids))
    file_names = _texts(file, "image", image_rows, "file_name")
    everything = _pictures(folder, image_ids[by_id], [file_names[i] for i in by_id], sizes_hw[by_id], boxes)
    with_boxes = tuple(picture for picture in everything if len(picture.boxes_xyxy))
    pictures = everything if keep_empty else with_boxes
    _require_pictures(file, len(everything), len(pictures), boxes.dropped)
    _require_files(file, folder, pictures)
    return CocoData(
        annotations=file,
        images=folder,
        pictures=pictures,
        names=tuple(names[i] for i in sorted(names)),
        category_ids=tuple(sorted(names)),
        without_boxes=len(everything) - len(with_boxes),
        dropped_boxes=boxes.dropped,
        clipped_boxes=boxes.clipped,
    )


# ---- the file ----


def _read_tables(file: Path) -> tuple[list[Row], list[Row], list[Row]]:
    """The file's images, annotations and categories, each a list of objects."""
    content = _read_json(file)
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, dict) and "score" in first:
            raise InputError(
                f"{file}: got detection results (a list whose entries have a 'score'), expected COCO annotations; "
                "pass the ground truth, e.g. annotations/instances_val2017.json"
            )
        raise InputError(
            f"{file}: got a list of {len(content)} entries, expected COCO annotations: "
            "an object with the keys images, annotations and categories"
        )
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: got {_shown(content)}, expected COCO annotations: "
            "an object with the keys images, annotations and categories"
        )
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise InputError(
            f"{file}: got the keys {sorted(content)[:8]}, expected COCO annotations with the lists images, annotations "
            f"and categories; add {', '.join(missing)} or convert the file to COCO"
        )
    for key in ("images", "annotations", "categories"):
        for place, row in enumerate(content[key]):
            if not isinstance(row, dict):
                raise InputError(
                    f"{file}: {key}[{place}] is {_shown(row)}, expected an object; convert the file to COCO"
                )
    if not content["categories"]:
        raise InputError(f"{file}: got an empty list of categories, expected at least one class; add the categories")
    return content["images"], content["annotations"], content["categories"]


def _read_json(file: Path) -> object:
    try:
        content: object = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{file}: no such annotation file, expected a COCO JSON; check DATA_ROOT, or the annotation path given"
        ) from None
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}), expected a COCO JSON file; check the path and its permissions"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}: not JSON at line {error.lineno}, column {error.colno} ({error.msg}), "
            "expected COCO annotations; mend that line or copy the file again"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not a text file, expected COCO annotations as JSON; check the path") from None
    return content


def _unique_ids(file: Path, kind: str, rows: Sequence[Row]) -> Ints:
    """The rows' `id`, each an integer that no other row has."""
    ids = _integers(file, kind, rows, "id")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = int(unique[counts > 1][0])
        raise InputError(
            f"{file}: {kind} id {twice} is used {int(counts[counts > 1][0])} times, expected each id once; "
            "number the entries anew (ids clash when files are merged)"
        )
    return ids


def _integers(file: Path, kind: str, rows: Sequence[Row], key: str) -> Ints:
    """One integer field of all rows; 3.0 counts as 3, because spreadsheet tools write it so."""
    return np.array(_values(file, kind, rows, key, _is_integer, "an integer"), dtype=np.int64)


def _positive(file: Path, kind: str, rows: Sequence[Row], key: str) -> Ints:
    return np.array(_values(file, kind, rows, key, _is_positive, "a positive number of pixels"), dtype=np.int64)


def _texts(file: Path, kind: str, rows: Sequence[Row], key: str) -> list[str]:
    return [str(text) for text in _values(file, kind, rows, key, _is_text, "a non-empty text")]


def _values(
    file: Path, kind: str, rows: Sequence[Row], key: str, is_good: Callable[[object], bool], expected: str
) -> list[object]:
    """One field of all rows, or the first bad one as an InputError."""
    values = [row.get(key) for row in rows]
    for place, value in enumerate(values):
        if not is_good(value):
            got = _shown(value) if key in rows[place] else "no value"
            raise InputError(
                f"{file}: {_named(kind, place, rows[place])} has {got} as '{key}', expected {expected}; "
                "mend or remove that entry"
            )
    return values


def _is_integer(value: object) -> bool:
    if type(value) is int:  # not isinstance: true and false are no ids
        return abs(value) < 2**63
    return type(value) is float and value.is_integer() and abs(value) < 2**53


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and _is_integer(value) and 0 < value < LARGEST_NUMBER


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_box(value: object) -> bool:
    if not (isinstance(value, list) and len(value) == 4 and {int, float}.issuperset(map(type, value))):
        return False
    total: float = sum(map(abs, value))  # NaN and infinity carry over
    return total < LARGEST_NUMBER


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and abs(value) < LARGEST_NUMBER


def _is_area(value: object) -> bool:
    return value is None or _is_number(value)


def _named(kind: str, place: int, row: Row) -> str:
    return f"{kind} {row['id']!r}" if "id" in row else f"{kind} number {place + 1} of the file"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---- the boxes ----


def _read_boxes(file: Path, rows: list[Row], image_ids: Ints, sizes_hw: Ints, category_ids: Ints) -> _Boxes:
    """All annotations as arrays; `image_ids` and `category_ids` are sorted, `sizes_hw` goes with `image_ids`."""
    _unique_ids(file, "annotation", rows)
    picture = _places(file, rows, "image_id", image_ids, "the file's images")
    labels = _places(file, rows, "category_id", category_ids, "the file's categories")
    four_numbers = "four finite numbers (x, y, width, height in pixels)"
    xywh = np.array(_values(file, "annotation", rows, "bbox", _is_box, four_numbers), dtype=np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    limits_xyxy = np.tile(sizes_hw[picture][:, ::-1], (1, 2)).astype(np.float64)
    clipped_xyxy = np.clip(xyxy, 0.0, limits_xyxy)
    kept = _kept(file, rows, xywh)
    _require_inside(file, rows, kept, clipped_xyxy)
    crowd = np.array([bool(row.get("iscrowd")) for row in rows], dtype=np.bool_)
    # Compared as float32: 19.7 + 620.3 ends a rounding error beyond 640 and is not over the border.
    over_border = (xyxy.astype(np.float32) != clipped_xyxy.astype(np.float32)).any(axis=1)
    return _Boxes(
        xyxy=clipped_xyxy[kept].astype(np.float32),
        picture=picture[kept],
        labels=labels[kept].astype(np.int32),
        crowd=crowd[kept],
        dropped=int((~kept).sum()),
        clipped=int((over_border & kept).sum()),
    )


def _places(file: Path, rows: list[Row], key: str, known: Ints, where: str) -> Ints:
    """Where each row's `key` stands among the sorted ids `known`."""
    wanted = _integers(file, "annotation", rows, key)
    places = np.searchsorted(known, wanted)
    found = np.isin(wanted, known)
    if not found.all():
        place = int(np.argmin(found))
        raise InputError(
            f"{file}: {_named('annotation', place, rows[place])} has {key} {wanted[place]}, which is not among {where} "
            f"({int((~found).sum())} annotations of {len(rows)} are so); add it there or remove these annotations"
        )
    return places


def _kept(file: Path, rows: list[Row], xywh: Floats) -> Mask:
    """(N,) true where the reference's loader keeps a box inside the picture: a pixel wide and high, with area."""
    areas = np.array(_values(file, "annotation", rows, "area", _is_area, "a finite number or none"), dtype=np.float64)
    ignored = np.array([bool(row.get("ignore")) for row in rows], dtype=np.bool_)
    # An absent area is NaN here, and NaN <= 0 is false: the box stays.
    return (xywh[:, 2:] >= 1).all(axis=1) & ~(areas <= 0) & ~ignored


def _require_inside(file: Path, rows: list[Row], kept: Mask, clipped_xyxy: Floats) -> None:
    """A box with nothing of it inside its picture says that the file is wrong; the reference drops it silently."""
    outside = kept & (clipped_xyxy[:, 2:] <= clipped_xyxy[:, :2]).any(axis=1)
    if outside.any():
        place = int(np.argmax(outside))
        raise InputError(
            f"{file}: {_named('annotation', place, rows[place])} has the box {_shown(rows[place]['bbox'])} wholly "
            f"outside its picture ({int(outside.sum())} annotations of {len(rows)} are so), expected x, y, width, "
            "height in the picture's own pixels; mend or remove these annotations"
        )


# ---- the pictures ----


def _pictures(
    folder: Path, image_ids: Ints, file_names: list[str], sizes_hw: Ints, boxes: _Boxes
) -> tuple[Picture, ...]:
    """Deal the boxes out to their pictures, in the file's order within each."""
    count = len(image_ids)
    learnt = _dealt(boxes.picture[~boxes.crowd], count)
    ignored = _dealt(boxes.picture[boxes.crowd], count)
    learnt_xyxy, labels, ignored_xyxy = boxes.xyxy[~boxes.crowd], boxes.labels[~boxes.crowd], boxes.xyxy[boxes.crowd]
    return tuple(
        Picture(
            id=image_id,
            file_name=file_names[i],
            path=folder / file_names[i],
            height=height,
            width=width,
            boxes_xyxy=learnt_xyxy[learnt[i]],
            labels=labels[learnt[i]],
            ignored_xyxy=ignored_xyxy[ignored[i]],
        )
        for i, (image_id, (height, width)) in enumerate(zip(image_ids.tolist(), sizes_hw.tolist(), strict=True))
    )


def _dealt(picture: Ints, count: int) -> list[Ints]:
    """For each of `count` pictures the rows that are its own, in order."""
    order = np.argsort(picture, kind="stable")
    starts = np.searchsorted(picture[order], np.arange(1, count))
    return np.split(order, starts) if count else []


def _require_pictures(file: Path, in_file: int, left: int, dropped_boxes: int) -> None:
    if left:
        return
    if not in_file:
        raise InputError(f"{file}: got an empty list of images, expected at least one picture; check the file")
    raise InputError(
        f"{file}: none of its {in_file} pictures has a box to learn from ({dropped_boxes} boxes were dropped as "
        "smaller than a pixel or without area, crowds do not count); add boxes or set keep_empty"
    )


def _require_files(file: Path, folder: Path, pictures: Sequence[Picture]) -> None:
    """A wrong folder fails here; single missing files are named by whoever reads them."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such images folder, expected the pictures of {file}; check DATA_ROOT, or the path given"
        )
    probed = pictures[:PROBED_PICTURES]
    if not any(picture.path.is_file() for picture in probed):
        raise InputError(
            f"{folder}: holds none of the first {len(probed)} pictures of {file} (e.g. {probed[0].file_name}), "
            "expected the folder that its file names start from; pass that folder"
        )
