"""Whether two inputs are the same: a digest of their names, their sizes and a part of their content.

Every shard of a run must find the same one, on whatever machine, before its first picture. So no file is read whole
that need not be: names and sizes are those of all files, content is that of SAMPLED of them, spread over the whole
input. Times of files are left out: a copy has others.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

SAMPLED = 16  # files
BLOCK = 1 << 16  # bytes that are read from the beginning and from the end of such a file


def input_digest(files: Sequence[tuple[str, Path | None]]) -> str:
    """sha256 of files by name; one that cannot be read, or has no path, counts as an empty one."""
    total = hashlib.sha256()
    for name, path in files:
        total.update(f"{name}\0{_size(path)}\0".encode("utf-8", "surrogateescape"))
    for place in sorted({len(files) * i // SAMPLED for i in range(SAMPLED)} if files else ()):
        total.update(_ends(files[place][1]))
    return total.hexdigest()


def _size(path: Path | None) -> int:
    """Bytes of a file; 0 where it is none."""
    try:
        found = os.stat(path or "")
    except (OSError, ValueError):
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _ends(path: Path | None) -> bytes:
    """A file's first and last bytes; none where it is none."""
    if path is None or _size(path) == 0:  # to open a pipe would wait for its writer
        return b""
    try:
        with open(path, "rb") as file:
            start = file.read(BLOCK)
            file.seek(max(file.seek(0, os.SEEK_END) - BLOCK, len(start)))
            return start + file.read(BLOCK)
    except OSError:
        return b""
