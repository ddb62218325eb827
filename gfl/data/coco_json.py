"""COCO's JSON: annotation files in, detections out; whatever reads annotations reads them here.

A file is checked as far as its reader needs it: that its lists hold objects at once, a field of them when it is read.
What tools write in a form of their own (numbers as text, no ids for annotations) is read as what it means: values.py.
Letters: N annotations, D detections. Source: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import gc
import json
import mmap as mmap_module
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from mmap import mmap
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gfl.data import values
from gfl.errors import InputError

Value = TypeVar("Value")
Row: TypeAlias = dict[str, object]  # one entry of the file's images, annotations or categories
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Column: TypeAlias = NDArray[Any]  # an entry a row

LISTS = ("images", "annotations", "categories")
DONT_NEED: int | None = getattr(mmap_module, "MADV_DONTNEED", None)  # on Linux
PIECE = 500_000  # rows of a long array that are computed with at the same time


def pieces(count: int, *read: Column) -> Iterator[slice]:
    """All rows of an array, some at a time: what is computed with all of millions takes their size several times.

    read: arrays that are let go of after each piece.
    """
    for start in range(0, count, PIECE):
        yield slice(start, min(start + PIECE, count))
        let_go(*read)


def let_go(*arrays: Column) -> None:
    """Give the pages of arrays that are mapped files back: they are read anew when they are asked for again."""
    for array in arrays:
        base: object = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap) and DONT_NEED is not None:
            base.madvise(DONT_NEED)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the garbage collector, reading takes half the time: it makes millions of objects and no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# ---- annotation files ----


@dataclass(frozen=True, eq=False)
class Table:
    """One list of an annotation file. Reading a field of all rows raises InputError for the first bad value."""

    path: Path
    kind: str  # what a message calls a row: 'image', 'annotation' or 'category'
    rows: Sequence[Row]
    first: int = 0  # the place of the first of these rows in the file's list

    def ids(self) -> Ints:
        """The rows' `id`, each an integer that no other row has."""
        return self._once(self.integers("id"))

    def check_ids(self) -> None:
        """As `ids`, of rows that may lack one: nothing refers to an annotation."""
        given = [row for row in self.rows if row.get("id") is not None]
        replace(self, rows=given).ids()

    def integers(self, key: str) -> Ints:
        """Integers; 3.0 counts as 3, and so does "3"."""
        try:
            return np.array(self._values(key, values.integer, "an integer", usual=(int,)), dtype=np.int64)
        except OverflowError:  # one of them is no id, and is named
            return np.array(self._values(key, values.integer, "an integer"), dtype=np.int64)

    def sides(self, key: str) -> Ints:
        """Heights or widths of pictures, px; 0 where the file does not say."""
        return np.array(self._values(key, values.side, "a number of pixels"), dtype=np.int64)

    def texts(self, key: str) -> Sequence[str]:
        """Texts with at least one character."""
        return self._values(key, values.text, "a non-empty text")

    def boxes_xywh(self, key: str) -> Floats:
        """(N,4) x, y, width, height, px."""
        given = [row.get(key) for row in self.rows]
        if all(type(box) is list and len(box) == 4 for box in given):
            usual = _plain_numbers(list(chain.from_iterable(cast(list[list[object]], given))))
            if usual is not None:
                return usual.reshape(-1, 4)
        expected = "four finite numbers (x, y, width, height in pixels)"
        return np.array(self._values(key, values.box, expected), dtype=np.float64).reshape(-1, 4)

    def numbers(self, key: str) -> Floats:
        """Finite numbers, NaN where a row has none."""
        usual = _plain_numbers([row.get(key) for row in self.rows])
        if usual is not None:
            return usual
        return np.array(self._values(key, values.number_or_nan, "a finite number or none"), dtype=np.float64)

    def areas(self, key: str, box: str) -> Floats:
        """Areas, px; width * height of the box where a row has none (NaN), or 0: tools write both."""
        areas = self.numbers(key)
        if (areas > 0).all():
            return areas
        boxes_xywh = self.boxes_xywh(box)
        return np.where(areas > 0, areas, boxes_xywh[:, 2] * boxes_xywh[:, 3])

    def flags(self, key: str) -> Mask:
        """Whether each row has a mark: 1 or true, but not 0, "0" or null."""
        usual = (int, bool, type(None))
        return np.array(self._values(key, values.flag, "0 or 1", usual=usual), dtype=np.bool_)

    def name_of(self, index: int) -> str:
        """What a message calls the row at an index: 'annotation 17'."""
        row = self.row(index)
        return (
            f"{self.kind} {row['id']!r}" if "id" in row else f"{self.kind} number {self.first + index + 1} of the file"
        )

    def row(self, index: int) -> Row:
        """One of the rows."""
        return self.rows[index]

    def holds(self, key: str, value: int) -> bool:
        """Whether a row has this integer, or its digits, in a field."""
        return any(row.get(key) in (value, str(value)) for row in self.rows)

    def kept(self, name: str, make: Callable[[], Mapping[str, Column]]) -> Mapping[str, Column]:
        """What `make` computes of the rows; a name stands for one outcome, which need not be computed twice."""
        return make()

    def _values(
        self, key: str, read: Callable[[object], Value], expected: str, *, usual: tuple[type, ...] = ()
    ) -> list[Value]:
        """The field of all rows, by `read`; values that all are of the types `usual` are taken as they are, fast."""
        given: list[object] = [row.get(key) for row in self.rows]
        if set(usual).issuperset(map(type, given)):
            return cast(list[Value], given)
        found = []
        for index, value in enumerate(given):
            try:
                found.append(read(value))
            except ValueError:
                got = shown(value) if key in self.rows[index] else "no value"
                raise InputError(
                    f"{self.path}: {self.name_of(index)} has {got} as '{key}', expected {expected}; "
                    "mend or remove that entry"
                ) from None
        return found

    def _once(self, ids: Ints) -> Ints:
        if (ids[1:] > ids[:-1]).all():  # as most files have them
            return ids
        unique, counts = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            twice = int(unique[counts > 1][0])
            raise InputError(
                f"{self.path}: {self.kind} id {twice} is used {int(counts[counts > 1][0])} times, expected each id "
                "once; number the entries anew (ids clash when files are merged)"
            )
        return ids


def _plain_numbers(given: list[object]) -> Floats | None:
    """Numbers, all of them written as such, in a third of the time that a look at each takes; else None."""
    if not {int, float}.issuperset(map(type, given)):
        return None
    try:
        numbers = np.array(given, np.float64)
    except OverflowError:
        return None
    return numbers if (np.abs(numbers) < values.LARGEST_NUMBER).all() else None  # NaN is not


@dataclass(frozen=True, eq=False)
class CocoFile:
    """An annotation file as it is written. It may take gigabytes: keep a GroundTruth instead."""

    path: Path
    images: Table
    annotations: Table
    categories: Table
    rest: Row  # the file's other keys: 'info', 'licenses', what a tool adds


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """What detections are counted against: the pictures, classes and boxes of a file, as flat arrays."""

    path: Path  # of the annotation file
    image_ids: Ints  # of all pictures, in the file's order
    class_names: dict[int, str]  # category id -> name, in the order of the ids
    image_id: Ints  # (N,) of each box
    category_id: Ints  # (N,)
    boxes_xywh: Floats  # (N,4) original px, neither clipped nor left out
    areas: Floats  # (N,) px; width * height where the file has none
    crowd: Mask  # (N,)
    root_class: str | None = None  # a category that only groups the others (Roboflow's), left out

    @property
    def root_note(self) -> str:
        """What a user should know of that category; empty where there is none."""
        if self.root_class is None:
            return ""
        return f"the category '{self.root_class}' only groups the others and has no box: left out"


@collector_paused()
def read_coco_file(path: str | Path, needed: Sequence[str] = LISTS) -> CocoFile:
    """Read an annotation file; of the lists that are not `needed`, one that it lacks is empty.

    Raises InputError where the file is missing, is not JSON or is not COCO, or has no category where these are needed.
    """
    path = Path(path).expanduser()
    content = _read_json(path)
    wanted = f"expected COCO annotations (an object with {', '.join(needed or LISTS)})"
    if not isinstance(content, dict):
        got = f"a list of {len(content)} entries" if isinstance(content, list) else shown(content)
        if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
            got = "detection results (a list whose entries have a 'score')"
        raise InputError(f"{path}: got {got}, {wanted}; give the ground truth, e.g. annotations/instances_val2017.json")
    missing = [key for key in needed if not isinstance(content.get(key), list)]
    if missing:
        raise InputError(
            f"{path}: got the keys {sorted(content)[:8]}, {wanted}; "
            f"add {', '.join(missing)} or convert the file to COCO"
        )
    if "categories" in needed and not content["categories"]:
        raise InputError(f"{path}: got an empty list of categories, expected at least one class; add the categories")
    images, annotations, categories = (table_of(path, key, content.get(key)) for key in LISTS)
    rest = {key: value for key, value in content.items() if key not in LISTS}
    return CocoFile(path, images, annotations, categories, rest)


def table_of(path: Path, key: str, rows: object, first: int = 0) -> Table:
    """The rows of a list, or some of them from a place on. Raises InputError for one that is no object."""
    rows = rows if isinstance(rows, list) else []
    for index, row in enumerate(rows, start=first):
        if not isinstance(row, dict):
            raise InputError(f"{path}: {key}[{index}] is {shown(row)}, expected an object; convert the file to COCO")
    return Table(path, "category" if key == "categories" else key.removesuffix("s"), rows, first)


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such annotation file, expected a COCO JSON; check DATA_ROOT, or the annotation path given"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}), expected a COCO JSON file; check the path and its permissions"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON at line {error.lineno}, column {error.colno} ({error.msg}), "
            "expected COCO annotations; mend that line or copy the file again"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file, expected COCO annotations as JSON; check the path") from None


def class_names(file: CocoFile) -> dict[int, str]:
    """Category id -> name, in the order of the ids: a label is the position in it. A root category is no class."""
    names = dict(zip(file.categories.ids().tolist(), file.categories.texts("name"), strict=True))
    return dict(sorted(names.items() - root_category(file).items()))


def root_category(file: CocoFile) -> dict[int, str]:
    """Id -> name of the category that Roboflow puts above the classes: all others name it as theirs, no box has it."""
    rows = dict(zip(file.categories.ids().tolist(), file.categories.rows, strict=True))
    parents = [row.get("supercategory") for row in rows.values()]
    for key, row in rows.items():
        name = row.get("name")
        if row.get("supercategory") in (None, "", "none") and len(rows) > 1 and parents.count(name) == len(rows) - 1:
            return {} if file.annotations.holds("category_id", key) else {key: str(name)}
    return {}


def image_ids_by_name(file: CocoFile) -> dict[str, int]:
    """File name -> image id."""
    return dict(zip(file.images.texts("file_name"), file.images.ids().tolist(), strict=True))


def ground_truth(file: CocoFile, *, strict: bool) -> GroundTruth:
    """The file's boxes, to count detections against.

    strict: refuse what training refuses. Otherwise annotations without a box are left out, and a class without a name
    is called by its id: files that were written to be evaluated may be so.
    """
    if strict:
        file.annotations.check_ids()
        annotations, names = file.annotations, class_names(file)
    else:
        annotations = replace(file.annotations, rows=[row for row in file.annotations.rows if row.get("bbox")])
        named = [{"name": row.get("id"), **row} for row in file.categories.rows]
        names = class_names(replace(file, categories=replace(file.categories, rows=named)))
    return GroundTruth(
        path=file.path,
        image_ids=file.images.ids(),
        class_names=names,
        image_id=annotations.integers("image_id"),
        category_id=annotations.integers("category_id"),
        boxes_xywh=annotations.boxes_xywh("bbox"),
        areas=annotations.areas("area", "bbox"),
        crowd=annotations.flags("iscrowd"),
        root_class=next(iter(root_category(file).values()), None),
    )


def shown(value: object) -> str:
    """A value in a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---- detections ----


class _CocoFields(TypedDict):
    """What COCO asks of an entry of its results."""

    image_id: int
    category_id: int
    bbox: Sequence[float]  # x, y, width, height in px of the original picture
    score: float


class CocoDetection(_CocoFields, total=False):
    """An entry of COCO results; others may hold more keys, which are not read."""

    edge_std: Sequence[float]  # px: the spread of the left, top, right and bottom edge


def coco_detections(
    image_id: int, boxes_xyxy: NDArray[np.float32], scores: NDArray[np.float32], category_ids: Sequence[int]
) -> list[CocoDetection]:
    """COCO results of one picture from boxes (D,4) in its own px, scores (D,) and D category ids."""
    corners = boxes_xyxy.astype(np.float64)
    boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(category_ids, boxes_xywh, scores.tolist(), strict=True)
    ]
