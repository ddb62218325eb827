"""What --pictures names, as pictures to come: files, members of .tar shards, rows of Parquet tables.

Nothing of a picture is read here. Of a shard the heads of its members are, of a table its columns of paths and names.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyarrow import Schema, types
from pyarrow.fs import FileInfo, FileSelector, FileType
from pyarrow.parquet import ParquetFile

from gfl.data.picture_files import PICTURES
from gfl.errors import InputError, first_line
from gfl.storage import is_match
from infer.bulk.filesystems import SCHEME, Located, locate, shown

SHARD, TABLE = ".tar", ".parquet"
NO_SUFFIX = "without a suffix"
CONTENTS = ("bytes", "image", "content", "jpg", "png")  # columns of a table that hold pictures, the first that is there
PATHS = ("file", "path", "uri", "url", "file_name")  # columns that say where pictures are, or what they are called
READ_AHEAD = 1 << 16  # bytes of a shard that are read at once: members may be small


class Listed(NamedTuple):
    """A picture, not looked at yet."""

    file: str  # what results call it
    uri: str  # the file that holds it, as of `locate`
    offset: int | None = None  # in a shard: its first byte; in a table: its row; None: the file is the picture
    size: int | None = None  # in a shard: its bytes
    column: str | None = None  # in a table
    failure: str | None = None  # why it cannot be read, where that is known already


def list_pictures(texts: Sequence[str], left_out: Counter[str]) -> Iterator[Listed]:
    """The pictures that folders, files and patterns name, with all folders below them.

    texts: paths or URIs; a file that several name is taken once. left_out: counts the others by how they end.
    Raises InputError where one names nothing, and for a table without pictures.
    """
    seen: set[str] = set()
    for text in texts:
        found = 0
        for name, located in files_of(text):
            found += 1
            if len(texts) > 1:
                if located.uri in seen:
                    continue
                seen.add(located.uri)
            suffix = posixpath.splitext(name)[1].lower()
            if suffix in PICTURES:
                yield Listed(name, located.uri)
            elif suffix == SHARD:
                yield from members_of(name, located, left_out)
            elif suffix == TABLE:
                yield from rows_of(name, located)
            else:
                left_out[suffix or NO_SUFFIX] += 1
        if not found:
            raise InputError(f"{text} names nothing, expected at least one picture; check --pictures")


def files_of(text: str) -> Iterator[tuple[str, Located]]:
    """The files that a text names, each with its path from the folder or the pattern's fixed part on, in order."""
    if not text:
        raise InputError("got an empty --pictures, expected pictures; give . for the working directory")
    located = locate(text)
    magic = re.search(r"[*?\[]" if located.is_local else r"[*\[]", located.path)  # URIs have queries
    try:
        kind = located.filesystem.get_file_info(located.path).type
        if kind is FileType.File:
            yield posixpath.basename(located.path), located
        elif kind is FileType.Directory:
            yield from walk(located)
        elif magic is None:
            raise InputError(f"{text}: no such file or folder, expected pictures; check --pictures")
        else:
            folder = located.at(posixpath.dirname(located.path[: magic.start()]) or "/")
            yield from (each for each in walk(folder) if is_match(each[1].path, located.path))
    except (OSError, ValueError) as error:
        raise InputError(f"{text} cannot be looked into ({first_line(error)}); check --pictures") from error


def walk(folder: Located) -> Iterator[tuple[str, Located]]:
    """The files in a folder and below it, by name, folder after folder; hidden ones are passed over."""
    top = folder.path.rstrip("/")
    waiting, visited = [top or "/"], set[str]()
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path) if folder.is_local else path
        if real in visited:  # links in a circle
            continue
        visited.add(real)
        entries: list[FileInfo] = folder.filesystem.get_file_info(FileSelector(path))
        # Some file systems name the folder itself, or what is below its folders, among its entries.
        entries = [each for each in entries if posixpath.dirname(each.path.rstrip("/")).rstrip("/") == path.rstrip("/")]
        named = sorted((each for each in entries if not each.base_name.startswith(".")), key=lambda each: each.path)
        for entry in named:
            if entry.type is not FileType.Directory:
                yield entry.path[len(top) :].lstrip("/"), folder.at(entry.path)
        waiting += [entry.path for entry in reversed(named) if entry.type is FileType.Directory]


def members_of(name: str, shard: Located, left_out: Counter[str]) -> Iterator[Listed]:
    """The pictures of a .tar, by their place in it; where it is damaged, last what says so."""
    try:
        with shard.filesystem.open_input_file(shard.path) as raw:
            size = raw.size()
            with tarfile.open(fileobj=io.BufferedReader(raw, READ_AHEAD), mode="r:") as archive:
                for member in archive:
                    vars(archive)["members"].clear()  # typeshed lacks it; else it keeps all of them
                    suffix = posixpath.splitext(member.name)[1].lower()
                    if suffix in PICTURES and member.isfile():
                        yield Listed(f"{name}/{member.name}", shard.uri, member.offset_data, member.size)
                    elif member.isfile():
                        left_out[suffix or NO_SUFFIX] += 1
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("it ends within a member")
    except (tarfile.TarError, OSError) as error:
        yield damaged(name, shard, error, "a whole .tar that is not compressed")


def rows_of(name: str, table: Located) -> Iterator[Listed]:
    """The pictures of a Parquet table: what a column holds, or what a column of paths and URIs leads to.

    Paths are taken from the table's folder on. Where the table is damaged, last what says so; raises InputError for one
    without such a column.
    """
    try:
        with table.filesystem.open_input_file(table.path) as handle:
            file = ParquetFile(handle)
            content, path = columns_of(file.schema_arrow, shown(table))
            row = 0
            for batch in file.iter_batches(columns=[path] if path else []):
                texts = batch.column(0).to_pylist() if path else [None] * batch.num_rows
                for text in texts:
                    if content is not None:
                        yield Listed(text or f"{name}#{row}", table.uri, row, column=content)
                    else:
                        yield Listed(text or f"{name}#{row}", resolved(text or "", table))
                    row += 1
    except (OSError, ValueError) as error:  # pyarrow's own are of these types
        yield damaged(name, table, error, "a Parquet table")


def columns_of(schema: Schema, name: str) -> tuple[str | None, str | None]:
    """The columns of a table that hold its pictures, and their paths or names; None where it has none.

    Raises InputError where it has neither.
    """

    def is_content(column: str) -> bool:
        kind = schema.field(column).type
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_text(column: str) -> bool:
        kind = schema.field(column).type
        return bool(types.is_string(kind) or types.is_large_string(kind))

    content = next((column for column in CONTENTS if column in schema.names and is_content(column)), None)
    path = next((column for column in PATHS if column in schema.names and is_text(column)), None)
    if content is None and path is None:
        raise InputError(
            f"{name} has the columns {', '.join(schema.names)}, expected one of {', '.join(CONTENTS)} with the bytes "
            f"of picture files, or one of {', '.join(PATHS)} with their paths or URIs; rename it"
        )
    return content, path


def resolved(text: str, table: Located) -> str:
    """What `locate` takes for a path of a table."""
    if SCHEME.match(text) or text.startswith("/"):
        return text
    return table.at(posixpath.join(posixpath.dirname(table.path), text)).uri


def damaged(name: str, file: Located, error: Exception, expected: str) -> Listed:
    """What stands for the pictures that cannot be found in a file."""
    reason = f"{shown(file)} cannot be read to its end ({first_line(error)}), expected {expected}; copy it again"
    return Listed(name, file.uri, failure=reason)
