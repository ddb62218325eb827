"""Puts a picture into another folder without copying its bytes, where the file system can."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from gfl.errors import InputError
from gfl.files import write_errors


def link_picture(source: Path, target: Path, *, copy: bool = False) -> None:
    """Make `target` show the file `source`: a symbolic link, else a hard link, else a copy; with `copy` a copy.

    The link is absolute and leads to the real file, so that it survives when the folder of `target` is renamed or when
    `source` is itself a link that is removed. Folders of `target` are made.
    Raises InputError where `source` is no file, where `target` is already there, or where nothing can be written.
    """
    real = source.resolve()
    if not real.is_file():
        raise InputError(f"got no picture at {source}, expected a file; check the folder")
    if os.path.lexists(target):
        raise InputError(f"{target} is already there, expected a new file; write into an empty folder")
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for link in () if copy else (os.symlink, os.link):
            with suppress(OSError):  # Windows without its developer mode, FAT, another disk
                link(real, target)
                return
        shutil.copyfile(real, target)
