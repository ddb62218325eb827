"""What a large annotation file says, as flat arrays in files that are mapped into memory: parsed once a host.

The arrays lie in a folder of the cache, named by the file's SHA-256 and size, so that a changed file is read anew. All
processes of the host share their pages; the folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gfl.data.coco_json import LISTS, CocoFile, Column, Floats, Ints, Mask, Row, Table, let_go, read_coco_file, table_of
from gfl.data.host_cache import NoCacheError, cached, make_once
from gfl.data.json_stream import rows_of_lists
from gfl.data.lazy import Lazy
from gfl.say import say

INDEX_FROM = 2**25  # bytes of a file; smaller ones are read whole, in less than a second
CHUNK = 100_000  # rows that are Python objects at the same time
VERSION = 2  # of the arrays; another one is read anew
TOLD_S = 10.0  # between two notes of how far a first reading is
NO_ID = np.iinfo(np.int64).min

# Columns of the lists: name -> how a Table reads it.
Reader = Callable[[Table], Column]
COLUMNS: Mapping[str, Mapping[str, Reader]] = {
    "images": {
        "id": lambda table: table.integers("id"),
        "height": lambda table: table.sides("height"),
        "width": lambda table: table.sides("width"),
    },
    "annotations": {
        "id": lambda table: _ids(table),
        "image_id": lambda table: table.integers("image_id"),
        "category_id": lambda table: table.integers("category_id"),
        "bbox": lambda table: table.boxes_xywh("bbox"),
        "area": lambda table: table.areas("area", "bbox"),
        "iscrowd": lambda table: table.flags("iscrowd"),
        "ignore": lambda table: table.flags("ignore"),
    },
}
FACTS = "index.json"  # what the other files of an index hold
NAMES = "file_name"  # of pictures, a column of texts


class Texts(Lazy[str]):
    """Many texts as one array of bytes."""

    def __init__(self, content: NDArray[np.uint8], ends: Ints) -> None:
        """ends: where each text ends in `content`."""
        self.content, self.ends = content, ends

    def __len__(self) -> int:
        return len(self.ends)

    def make(self, at: int) -> str:
        start = int(self.ends[at - 1]) if at else 0
        return self.content[start : int(self.ends[at])].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class IndexedTable(Table):
    """A list of an annotation file whose fields were read before."""

    columns: Mapping[str, Column] = field(default_factory=dict)
    names: Sequence[str] = ()  # of pictures: their file names
    folder: Path = Path()  # of the index

    def ids(self) -> Ints:
        return self._once(self.columns["id"])

    def check_ids(self) -> None:
        self.kept("ids", self._check_ids)

    def _check_ids(self) -> Mapping[str, Column]:
        ids = self.columns["id"]
        self._once(ids[ids != NO_ID] if (ids == NO_ID).any() else ids)
        let_go(ids)
        return {}

    def integers(self, key: str) -> Ints:
        return self.columns[key]

    def sides(self, key: str) -> Ints:
        return self.columns[key]

    def texts(self, key: str) -> Sequence[str]:
        return self.names

    def boxes_xywh(self, key: str) -> Floats:
        return self.columns[key]

    def areas(self, key: str, box: str) -> Floats:
        return self.columns[key]

    def flags(self, key: str) -> Mask:
        return self.columns[key]

    def holds(self, key: str, value: int) -> bool:
        return bool((self.columns[key] == value).any())

    def kept(self, name: str, make: Callable[[], Mapping[str, Column]]) -> Mapping[str, Column]:
        if not self.folder.is_dir():  # there is no cache
            return make()
        folder = self.folder / name
        made: list[Mapping[str, Column]] = []

        def write(draft: Path) -> None:
            made.append(make())
            for key, values in made[0].items():
                np.save(draft / f"{key}.npy", values)

        try:
            make_once(folder, write)
            return {path.stem: np.asarray(np.load(path, mmap_mode="r")) for path in folder.glob("*.npy")}
        except (NoCacheError, OSError):
            return made[0] if made else make()

    def row(self, index: int) -> Row:
        fields: Row = {key: values[index].tolist() for key, values in self.columns.items()}
        if "bbox" in fields:
            fields["bbox"] = [
                int(value) if value.is_integer() else value for value in self.columns["bbox"][index].tolist()
            ]
        return {key: value for key, value in fields.items() if (key, value) != ("id", NO_ID)}


def read_coco_columns(path: str | Path) -> CocoFile:
    """As `read_coco_file`, for those who read the columns above alone: a large file by way of its index.

    Raises InputError as that and as the methods of `Table` do.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size < INDEX_FROM:
            return read_coco_file(path)
        return _read_indexed(path)
    except (OSError, ValueError):
        # It is no file, no JSON, or of a kind that only this reader knows: it says which.
        return read_coco_file(path)


def _read_indexed(path: Path) -> CocoFile:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(2**22):
            digest.update(chunk)
    folder = f"annotations/{digest.hexdigest()[:40]}-{path.stat().st_size}-{VERSION}"
    return cached(folder, partial(_fill, path), partial(_load, path))


def _fill(path: Path, folder: Path) -> None:
    """Write the columns of a file, some rows after the others, and what they are.

    Raises InputError for the first bad value, ValueError where the file is not of the usual form.
    """
    counts, categories, ends = {"images": 0, "annotations": 0}, [], 0
    kinds: dict[str, tuple[str, list[int]]] = {}
    seen: set[str] = set()
    told = time.monotonic()
    with ExitStack() as files:
        streams: dict[str, IO[bytes]] = {}

        def add(name: str, values: Column) -> None:
            if name not in streams:
                streams[name] = files.enter_context(open(folder / name, "wb"))
                kinds[name] = (values.dtype.str, list(values.shape[1:]))
            streams[name].write(np.ascontiguousarray(values).tobytes())

        for key, rows in rows_of_lists(path, LISTS, CHUNK):
            if not rows and key in seen:
                raise ValueError(f"{key} twice")
            seen.add(key)
            if key == "categories":
                categories += rows
                continue
            table = table_of(path, key, rows, counts[key])
            for name, read in COLUMNS[key].items():
                add(f"{key}.{name}", read(table))
            if key == "images":
                texts = [text.encode("utf-8", "surrogatepass") for text in table.texts(NAMES)]
                add(f"{key}.{NAMES}", np.frombuffer(b"".join(texts), np.uint8))
                add(f"{key}.{NAMES}.ends", ends + np.cumsum([len(text) for text in texts], dtype=np.int64))
                ends += sum(map(len, texts))
            counts[key] += len(rows)
            if time.monotonic() - told > TOLD_S:
                told = time.monotonic()
                so_far = f"{counts['images']:,} pictures and {counts['annotations']:,} annotations so far"
                say(f"reading {path} for the first time: {so_far}", error=True)
    if seen != set(LISTS) or not categories:
        raise ValueError("a list is missing or empty")
    facts = {"kinds": kinds, "categories": categories}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _load(path: Path, folder: Path) -> CocoFile:
    """An index as the file that it is of."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))

    def column(name: str) -> Column:
        kind, shape = facts["kinds"][name]
        if not (folder / name).stat().st_size:
            return np.empty((0, *shape), kind)
        return np.asarray(np.memmap(folder / name, kind, "r").reshape(-1, *shape))

    def table(key: str) -> IndexedTable:
        columns = {name: column(f"{key}.{name}") for name in COLUMNS[key]}
        names = Texts(column(f"{key}.{NAMES}"), column(f"{key}.{NAMES}.ends")) if key == "images" else ()
        return IndexedTable(path, key.removesuffix("s"), [], columns=columns, names=names, folder=folder)

    return CocoFile(path, table("images"), table("annotations"), table_of(path, "categories", facts["categories"]), {})


def _ids(table: Table) -> Ints:
    """The annotations' ids, NO_ID where one has none."""
    has = [row.get("id") is not None for row in table.rows]
    ids = np.full(len(has), NO_ID)
    ids[has] = replace(table, rows=[row for row, given in zip(table.rows, has, strict=True) if given]).integers("id")
    return ids
