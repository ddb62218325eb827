"""A picture where it is stored: a file, a part of a shard, a row of a table, or bytes at hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pyarrow import Array
from pyarrow.parquet import ParquetFile

from gfl.data.picture_files import MOST_BYTES, read_bytes, unreadable
from gfl.errors import InputError
from infer.bulk.filesystems import locate, shown
from infer.bulk.sources import Listed
from infer.opened import Opened, open_content


@dataclass(frozen=True)
class Stored:
    """A `Source` of infer's pipeline."""

    listed: Listed
    content: bytes | None  # of the picture's file, where it is at hand
    depth: str
    most_pixels: int | None

    @property
    def name(self) -> str:
        """What results call it."""
        return self.listed.file

    def open(self) -> Opened:
        """Read it; InputError where it cannot be read."""
        if self.listed.failure is not None:
            raise InputError(self.listed.failure)
        if self.content is not None:
            return open_content(self.content, self.name, self.depth, self.most_pixels)
        located = locate(self.listed.uri)
        is_file = self.listed.offset is None
        if is_file and located.is_local:  # as infer/run.py reads it
            path = Path(located.path)
            return open_content(read_bytes(path), str(path), self.depth, self.most_pixels)
        name = shown(located) if is_file else self.name
        try:
            content = read(self.listed)
        except (OSError, ValueError) as error:  # pyarrow's own are of these types
            raise InputError(unreadable(name, error)) from None
        return open_content(content, name, self.depth, self.most_pixels)


def read(listed: Listed) -> bytes:
    """The bytes of a picture's file. Raises OSError or ValueError where they cannot be read."""
    if listed.column is not None:
        row = listed.offset or 0
        group, start = row_group(listed.uri, row)
        value = contents(listed.uri, listed.column, group)[row - start].as_py()
        if value is None:
            raise ValueError("the row is empty")
        return bytes(value)
    located = locate(listed.uri)
    with located.filesystem.open_input_file(located.path) as file:
        size = file.size() - (listed.offset or 0) if listed.size is None else listed.size
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes are more than OpenCV takes")
        found: bytes = file.read_at(size, listed.offset or 0)
        if len(found) < size:
            raise ValueError(f"it ends after {len(found)} of {size} bytes")
        return found


@lru_cache(maxsize=64)
def row_starts(uri: str) -> tuple[int, ...]:
    """The first row of each group of a table, and last how many rows there are."""
    located = locate(uri)
    with located.filesystem.open_input_file(located.path) as file:
        about = ParquetFile(file).metadata
        starts = [0]
        for group in range(about.num_row_groups):
            starts.append(starts[-1] + about.row_group(group).num_rows)
        return tuple(starts)


def row_group(uri: str, row: int) -> tuple[int, int]:
    """The group of a table that holds a row, and its first row."""
    starts = row_starts(uri)
    group = next(group for group, stop in enumerate(starts[1:]) if row < stop)
    return group, starts[group]


@lru_cache(maxsize=2)  # pictures come row after row: of a group, and of the next one while the last of it is read
def contents(uri: str, column: str, group: int) -> Array:
    """A column of a group of rows."""
    located = locate(uri)
    with located.filesystem.open_input_file(located.path) as file:
        return ParquetFile(file).read_row_group(group, columns=[column]).column(0)
