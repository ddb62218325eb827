"""Results as Parquet: results-00001.parquet, ..., a row a picture with its detections nested in it.

Each file holds PART_ROWS pictures, in groups of GROUP_ROWS; the fields say their units, and the key `gfl` of a file's
metadata says what the results are of (`head.py`). Needs the package pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from gfl.errors import InputError
from gfl.files import atomic_file, to_json
from gfl.packages import import_package
from infer.head import Head
from infer.output_folder import PARTS
from infer.rows import BOX_DIGITS, SCORE_DIGITS, Row

if TYPE_CHECKING:
    from pyarrow import Schema, Table

PART_ROWS, GROUP_ROWS = 50_000, 1_000  # a group is in memory at a time: 100 detections a picture take 30 MB


def check_parquet() -> None:
    """InputError where pyarrow is missing."""
    _module("pyarrow")


def write_parquet(head: Head, rows: Iterable[Row], folder: Path) -> list[str]:
    """Write the files; their names. Without a picture there is one of no rows."""
    names: list[str] = []
    rows = iter(rows)
    group = list(islice(rows, GROUP_ROWS))
    while group or not names:
        name = f"results-{len(names) + 1:05d}.parquet"
        group = _write_part(folder / name, head, group, rows)
        names.append(name)
    return names


def _write_part(path: Path, head: Head, group: list[Row], rows: Iterator[Row]) -> list[Row]:
    """Write one file, whose first rows are a group; the first group of the next file."""
    parquet = _module("pyarrow.parquet")
    schema = schema_of(head)
    written = 0
    with atomic_file(path) as handle, parquet.ParquetWriter(handle, schema, compression="zstd") as writer:
        while written == 0 or (group and written < PART_ROWS):
            writer.write_table(table_of(group, schema))
            written += max(len(group), 1)
            group = list(islice(rows, GROUP_ROWS))
    return group


def table_of(rows: Sequence[Row], schema: Schema) -> Table:
    """Rows as a table of `schema_of`."""
    table: Table = _module("pyarrow").Table.from_pylist([_flat(row) for row in rows], schema=schema)
    return table


def _flat(row: Row) -> dict[str, object]:
    """A row whose texts are Unicode: bytes of file names that are not become escapes."""
    texts = {key: row[key] for key in ("file", "failure")}
    plain = {key: text and str(text).encode("utf-8", "backslashreplace").decode() for key, text in texts.items()}
    return {**row, **plain}


def schema_of(head: Head | None = None) -> Schema:
    """The schema of the files; head: what the results are of, where that is known."""
    arrow = _module("pyarrow")
    px, unit = {"unit": "px of the original picture"}, "unit"
    detection = arrow.struct(
        [
            arrow.field("category_id", arrow.int64()),
            arrow.field("bbox", arrow.list_(arrow.float32()), metadata={**px, "order": "x, y, width, height"}),
            arrow.field("score", arrow.float32(), metadata={unit: "probability, 0 to 1"}),
            arrow.field("track_id", arrow.int64()),  # of an object that is followed through its video
        ]
    )
    schema: Schema = arrow.schema(
        [
            arrow.field("id", arrow.int64(), nullable=False),
            arrow.field("file", arrow.string(), nullable=False),
            arrow.field("width", arrow.int32(), metadata=px),
            arrow.field("height", arrow.int32(), metadata=px),
            arrow.field("count", arrow.int32(), nullable=False),
            arrow.field("complete", arrow.bool_()),
            arrow.field("failure", arrow.string()),
            arrow.field("time_s", arrow.float64(), metadata={unit: "seconds from the beginning of the video"}),
            arrow.field("detections", arrow.list_(detection), nullable=False),
        ],
        metadata={"gfl": to_json(head).encode("utf-8", "backslashreplace")} if head else None,
    )
    return schema


def read_parquet(folder: Path) -> Iterator[Row]:
    """The pictures of the files of a folder, in order; InputError where one is damaged."""
    parquet = _module("pyarrow.parquet")
    for path in sorted(folder.glob(PARTS)):
        try:
            with open(path, "rb") as handle:
                for batch in parquet.ParquetFile(handle).iter_batches(GROUP_ROWS):
                    yield from (_rounded(row) for row in batch.to_pylist())
        except (OSError, ValueError) as error:  # pyarrow's own are of these types
            raise InputError(
                f"{path} cannot be read ({error}), expected a file of infer/run.py; run the shard again"
            ) from error


def read_parquet_head(folder: Path) -> Mapping[str, object]:
    """What the results of a folder are of; ValueError where no file says so."""
    for path in sorted(folder.glob(PARTS)):
        metadata = _module("pyarrow.parquet").read_schema(path).metadata or {}
        head: Mapping[str, object] = json.loads(metadata.get(b"gfl", b"{}"))
        return head
    raise ValueError(f"no {PARTS}")


def _rounded(row: dict[str, object]) -> Row:
    """A row as it was before its numbers were stored in 32 bits."""
    if row["time_s"] is None:
        del row["time_s"]
    for entry in cast(list[dict[str, object]], row["detections"]):
        if entry.get("track_id") is None:  # files from before there were tracks have none
            entry.pop("track_id", None)
    result = cast(Row, row)
    for detection in result["detections"]:
        detection["bbox"] = [round(value, BOX_DIGITS) for value in detection["bbox"]]
        detection["score"] = round(detection["score"], SCORE_DIGITS)
    return result


def _module(name: str) -> ModuleType:
    return import_package(
        name,
        "got --format parquet, which needs the package pyarrow, and it",
        "install it (pip install pyarrow), or take --format jsonl",
    )
