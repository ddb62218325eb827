"""The folder that a job writes, on any file system.

pictures.parquet is the list of its pictures, made once; job.json says what the results are of, and with it the list is
whole. parts/ has the results, checkpoint/ which of them are done, and summary.json comes last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
from pyarrow.fs import FileSelector, FileType
from pyarrow.parquet import ParquetFile, ParquetWriter

from gfl.errors import InputError, first_line
from gfl.files import to_json
from infer.bulk.filesystems import Located, locate, shown
from infer.bulk.sources import Listed

PICTURES, JOB, SUMMARY = "pictures.parquet", "job.json", "summary.json"
PARTS, CHECKPOINT = "parts", "checkpoint"
PENDING = ".pending.parquet"  # how the name of a checkpoint of a part ends that is not whole
GROUP_ROWS = 10_000  # of the list, in memory at a time
LIST = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("column", pa.string()),
        pa.field("failure", pa.string()),
    ]
)


class Written(NamedTuple):
    """A list of pictures."""

    pictures: int
    sha256: str  # of what stands in it


def write_list(folder: Located, pictures: Iterable[Listed]) -> Written:
    """Write the list, with ids from 1 in its order; raises InputError where that fails."""
    digest, pictures = hashlib.sha256(), iter(pictures)
    written = 0
    path = folder.below(PICTURES)
    try:
        folder.filesystem.create_dir(folder.path, recursive=True)
        with path.filesystem.open_output_stream(path.path) as handle, ParquetWriter(handle, LIST) as writer:
            while group := list(islice(pictures, GROUP_ROWS)):
                for each in group:
                    digest.update(f"{each.file}\0{each.uri}\0{each.offset}\0".encode("utf-8", "surrogateescape"))
                entries = [{"id": number, **plain(each)} for number, each in enumerate(group, start=written + 1)]
                writer.write_table(pa.Table.from_pylist(entries, schema=LIST))
                written += len(group)
    except OSError as error:
        raise unwritable(path, error) from error
    return Written(written, digest.hexdigest())


def plain(picture: Listed) -> dict[str, object]:
    """A picture as the list has it. Raises InputError for a name that is no Unicode, which no Parquet file holds."""
    try:
        picture.uri.encode("utf-8")
        picture.file.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{picture.uri} has a name that is no UTF-8, expected one that is; rename it") from None
    return picture._asdict()


def read_list(folder: str, start: int, stop: int) -> pa.Table:
    """The pictures of the list from the start-th (from 0) up to the stop-th. folder: its URI."""
    path = locate(folder).below(PICTURES)
    with path.filesystem.open_input_file(path.path) as handle:
        first = start // GROUP_ROWS
        groups = range(first, (stop - 1) // GROUP_ROWS + 1)
        return ParquetFile(handle).read_row_groups(list(groups)).slice(start - first * GROUP_ROWS, stop - start)


def parts_of(folder: Located) -> Iterator[str]:
    """The paths of the files in parts/ that are whole, in order: Ray names a part that it is writing in the checkpoint,
    NAME.pending.parquet for NAME-0.parquet, and removes both when a job goes on."""
    pending = tuple(name.removesuffix(PENDING) for name in names_in(folder.below(CHECKPOINT)) if name.endswith(PENDING))
    parts = folder.below(PARTS)
    yield from (parts.below(name).path for name in names_in(parts) if not name.startswith(pending))


def names_in(folder: Located) -> list[str]:
    """The names of the files in a folder, in order; none where it is not there."""
    found = folder.filesystem.get_file_info(FileSelector(folder.path, allow_not_found=True))
    return sorted(each.base_name for each in found if each.type is FileType.File)


def read_json(folder: Located, name: str) -> Mapping[str, object] | None:
    """An object in a file of the folder; None where there is none. Raises InputError where it cannot be read."""
    path = folder.below(name)
    try:
        if path.filesystem.get_file_info(path.path).type is FileType.NotFound:
            return None
        with path.filesystem.open_input_stream(path.path) as handle:
            content: Mapping[str, object] = json.loads(handle.read())
            return content
    except (OSError, ValueError) as error:
        raise InputError(
            f"{shown(path)} cannot be read ({first_line(error)}), expected what a job wrote; give another --out"
        ) from error


def write_json(folder: Located, name: str, content: Mapping[str, object]) -> None:
    """Write a file of the folder, which has its name when it is whole; raises InputError where that fails."""
    path = folder.below(name)
    draft = folder.below(f".{name}.tmp")
    try:
        with draft.filesystem.open_output_stream(draft.path) as handle:
            handle.write(to_json(content, indent=2).encode("utf-8", "backslashreplace"))
        path.filesystem.move(draft.path, path.path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Located, error: OSError) -> InputError:
    """The error of a file that cannot be written."""
    return InputError(f"cannot write {shown(path)}: {first_line(error)}; check the path or give another --out")
