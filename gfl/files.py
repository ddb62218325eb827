"""Writes files so that nobody sees half of one: whole files are renamed into place, text is added all at once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gfl.errors import InputError

_MENDS = {
    errno.ENOSPC: "free some space or write to another folder",
    errno.EDQUOT: "free some of your quota or write to another folder",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a folder that you may write to"),
    **dict.fromkeys((errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP), "give a folder on a file system that has file locks"),
}


def draft_path(path: Path) -> Path:
    """Where to write what becomes `path`: beside it, under a name that nobody can guess or have chosen as well.

    A process id is no such name: two containers that share a folder often have the same.
    """
    return path.with_name(f".{path.name[:40]}.{os.urandom(8).hex()}.tmp")  # file systems take 255 bytes


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary handle; what is written to it becomes the file `path` unless the block raises.

    Where `path` is a link, the file takes the link's place, and what it led to stays as it is.

    Raises InputError with the path where the file system refuses: no space, no permission, no such folder.
    """
    unfinished = draft_path(path)
    try:
        with write_errors(path):
            with open(unfinished, "xb") as handle:  # x: it follows no link, and takes no file that is there
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # there only when the block failed


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they do not exist. Raises as `atomic_file` does."""
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `path` when the block ends, and is removed where the block raises.

    Raises InputError as `require_new` does, and where the file system refuses.
    """
    require_new(path)
    make_folder(path.parent)
    draft = draft_path(path)
    try:
        with write_errors(path):
            draft.mkdir()
            yield draft
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()  # an empty one: Windows renames onto none
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # there only when the block failed


def require_new(path: Path) -> None:
    """Raise InputError for a path that is there already, other than an empty folder."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: already there, expected a new or empty folder; choose another or remove it")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file, text as UTF-8. Raises as `atomic_file` does."""
    with atomic_file(path) as handle:
        handle.write(_encoded(content) if isinstance(content, str) else content)


def sha256_of(*paths: Path) -> str:
    """sha256 of a file, or of several one after the other, in hexadecimal."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # names of files that are not Unicode hold lone surrogates


def to_json(value: object, *, indent: int | None = None) -> str:
    """Standard JSON: NaN and infinities become null; NumPy values, paths and tuples are converted."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False, default=_plain, ensure_ascii=False)
    except ValueError:  # something in it is not finite, which is rare: only then is the tree copied
        return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if value is None or isinstance(value, str | int):
        return value
    return _finite(_plain(value))


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can open a folder (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into an InputError that names the path and says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError about file positions while it handles the OSError of its handle.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        mend = _MENDS.get(cause.errno or 0, "check the path or give another folder")
        raise InputError(f"cannot write {path}: {cause.strerror or cause}; {mend}") from error


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file, either all of it or nothing. Raises as `atomic_file` does."""
    with write_errors(path), open(path, "ab", buffering=0) as handle:
        before = handle.seek(0, os.SEEK_END)
        rest = memoryview(_encoded(text))
        try:
            while rest:  # a full disk may take a part and refuse the next
                rest = rest[handle.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                handle.truncate(before)
            raise
