"""Pictures in Parquet files: a column of names and one of bytes, also within Hugging Face's struct `image`.

A picture is read with all others of its row group, of which the last few stay in memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from gfl.errors import InputError
from gfl.packages import import_package
from gfl.storage import file_system, storage_told

if TYPE_CHECKING:
    from types import ModuleType

    from pyarrow import ChunkedArray
    from pyarrow.parquet import ParquetFile

NAMES = ("file_name", "filename", "path", "key", "__key__", "image.path")
CONTENTS = ("bytes", "image", "image.bytes", "jpg", "jpeg", "png")
MOST_GROUP_BYTES = 2**28  # of the pictures in a row group, which is read for each of them
OPEN, GROUPS = 64, 4  # files and row groups that a process keeps


def parquet_rows(shard: str) -> Iterator[tuple[str, int, int]]:
    """The name of each picture, its row group, and its row there.

    Raises InputError without columns of names and bytes, and where row groups are too large to read a picture from.
    """
    with storage_told(shard):
        file = _open(shard)
        names, contents = _column(shard, file, NAMES, text=True), _column(shard, file, CONTENTS, text=False)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            size = group.column(contents).total_uncompressed_size
            if size > MOST_GROUP_BYTES:
                raise InputError(
                    f"got {shard} with row groups of {group.num_rows:,} pictures, {size / 2**20:,.0f} MB, expected at "
                    f"most {MOST_GROUP_BYTES // 2**20} MB, because one is read for each picture; write it again with "
                    "row_group_size=10, or as a .tar"
                )
            for row, name in enumerate(_values(file, number, names).to_pylist()):
                if name is not None:
                    yield name, number, row


def read_parquet_row(shard: str, group: int, row: int) -> bytes:
    """The bytes of a picture. Raises InputError where the row has none, or the file was exchanged."""
    with storage_told(shard):
        content = _group(shard, group, (os.getpid(), threading.get_ident()))[row].as_py()
    if not isinstance(content, bytes):
        raise InputError(f"{shard} has no bytes in row {row} of row group {group}, expected those of a picture")
    return content


@lru_cache(maxsize=GROUPS)
def _group(shard: str, group: int, reader: tuple[int, int]) -> ChunkedArray:
    """The column of bytes of a row group; reader: process and thread, for a file is neither a fork's nor another's."""
    file = _opened(shard, reader)
    return _values(file, group, _column(shard, file, CONTENTS, text=False))


@lru_cache(maxsize=OPEN)
def _opened(shard: str, reader: tuple[int, int]) -> ParquetFile:
    return _open(shard)


def _open(shard: str) -> ParquetFile:
    storage, path = file_system(shard)
    return _parquet().ParquetFile(storage.open(path, "rb", block_size=2**16, cache_type="none"))


def _values(file: ParquetFile, group: int, column: int) -> ChunkedArray:
    """A column of a row group."""
    path = file.schema.column(column).path
    return file.read_row_group(group, columns=[path], use_threads=False).flatten().column(0)


def _column(shard: str, file: ParquetFile, wanted: Sequence[str], *, text: bool) -> int:
    """The place of the first column of these names that holds text, or bytes."""
    columns = [file.schema.column(number) for number in range(len(file.schema.names))]
    of_kind = {
        column.path: number
        for number, column in enumerate(columns)
        if column.physical_type == "BYTE_ARRAY" and (column.logical_type.type == "STRING") == text
    }
    found = next((of_kind[name] for name in wanted if name in of_kind), None)
    if found is None:
        raise InputError(
            f"{shard} has the columns {', '.join(column.path for column in columns)}, expected one of "
            f"{'names' if text else 'bytes'}, called {' or '.join(wanted)}; rename it"
        )
    return found


def _parquet() -> ModuleType:
    needed = "pictures in Parquet files need the package pyarrow, which"
    return import_package("pyarrow.parquet", needed, "install it (pip install pyarrow), or write .tar shards")
