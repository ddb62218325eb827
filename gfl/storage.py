"""Files by path or by URI (`s3://bucket/a.tar`), through the file systems of fsspec.

fsspec is imported with the first use, and the package of a protocol (s3fs, gcsfs) by fsspec. Connections must not be
shared by processes: who forks asks for a file system anew, which `file_system` answers from memory.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from gfl.errors import InputError, first_line
from gfl.packages import import_package

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*")  # two letters at least: one is a drive of Windows
MEND = "install it: pip install 'gflv2[storage]', and for s3:// s3fs, for gs:// gcsfs"
# Where an object is seen when all of it is there. Elsewhere a file is written beside its place and renamed.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")
_opening = threading.Lock()  # threads that ask at once get one file system


class FileSystem(Protocol):
    """What is used of fsspec's AbstractFileSystem."""

    def glob(self, path: str, *, detail: bool) -> Mapping[str, Mapping[str, object]]: ...
    def info(self, path: str) -> Mapping[str, object]: ...
    def cat_file(self, path: str, *, start: int, end: int) -> bytes: ...
    def open(self, path: str, mode: str, *, block_size: int, cache_type: str) -> BinaryIO: ...
    def find(self, path: str) -> list[str]: ...
    def exists(self, path: str) -> bool: ...
    def makedirs(self, path: str, *, exist_ok: bool) -> None: ...
    def put_file(self, lpath: str, rpath: str) -> None: ...
    def get_file(self, rpath: str, lpath: str) -> None: ...
    def mv(self, path1: str, path2: str) -> None: ...
    def rm_file(self, path: str) -> None: ...
    def invalidate_cache(self) -> None: ...
    def unstrip_protocol(self, name: str) -> str: ...
    def _strip_protocol(self, path: str) -> str: ...


def is_uri(text: str) -> bool:
    """Whether a text names a file by its protocol, rather than by a path."""
    return URI.match(text) is not None


def file_system(path: str) -> tuple[FileSystem, str]:
    """The file system that a path or URI is on, and the path on it; a leading ~ is the home folder.

    Raises InputError where the package of its protocol is missing, or the protocol is none.
    """
    found = URI.match(path)
    opened = _file_system(found[0] if found else "", os.getpid())
    return opened, opened._strip_protocol(path)


@lru_cache(maxsize=64)
def _file_system(start: str, process: int) -> FileSystem:
    """The file system of URIs that begin so; process: the id of this one."""
    needed = "pictures in shards and files in object storage need the package fsspec, which"
    fsspec = import_package("fsspec.core", needed, MEND)
    with storage_told(start or "the files of this machine"):
        return cast(FileSystem, fsspec.url_to_fs(start or os.curdir)[0])


def is_match(path: str, pattern: str) -> bool:
    """Whether a path fits a pattern, in which ** stands for any folders, also none."""
    return _expression(pattern).match(path) is not None


@lru_cache(maxsize=64)
def _expression(pattern: str) -> re.Pattern[str]:
    utilities = import_package("fsspec.utils", f"the pattern {pattern} needs the package fsspec, which", MEND)
    return re.compile(utilities.glob_translate(pattern))


def put_whole(source: Path, target: str) -> None:
    """Copy a file to a URI, where a reader sees the old file or the new one, never half of one."""
    with storage_told(target):
        storage, path = file_system(target)
        if target.partition("://")[0] in OBJECT_STORES:
            return storage.put_file(str(source), path)
        folder, _, name = path.rpartition("/")
        draft = f"{folder}/.{name}.tmp"  # one process at a time writes to a run's folder
        storage.makedirs(folder, exist_ok=True)
        storage.put_file(str(source), draft)
        storage.mv(draft, path)


@contextmanager
def storage_told(name: str) -> Iterator[None]:
    """Around what is asked of a storage: whatever its package raises becomes an InputError that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file, expected one that exists; check its name") from error
    except ImportError as error:
        raise InputError(f"{name} needs a package that is missing ({first_line(error)}); {MEND}") from error
    except Exception as error:  # botocore's and aiohttp's errors share no base class
        raise InputError(
            f"got no answer for {name} ({type(error).__name__}: {first_line(error)}), expected a file that can be read "
            "and written as is asked; check the address, the credentials and the network"
        ) from error
