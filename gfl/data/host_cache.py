"""Folders of the cache: made once a host, shared by all its processes, and removed whenever somebody wants to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from gfl.files import draft_path

CACHE = "GFL_CACHE"  # names the folder of the cache

Content = TypeVar("Content")


def cached(name: str, fill: Callable[[Path], None], load: Callable[[Path], Content]) -> Content:
    """What `load` makes of the folder `name` of the cache, which `fill` has written into before, or does now.

    Of several processes one fills it, and it is there whole or not at all. Where the cache cannot be written to, each
    process fills a folder of its own, which is gone with the call: `load` keeps its files open, or mapped.
    """
    folder = cache_folder() / name
    try:
        make_once(folder, fill)
        try:
            return load(folder)
        except FileNotFoundError:  # somebody has cleared a part of the cache
            shutil.rmtree(folder, ignore_errors=True)
            make_once(folder, fill)
            return load(folder)
    except NoCacheError:
        with TemporaryDirectory() as own:
            fill(Path(own))
            return load(Path(own))


class NoCacheError(Exception):
    """The cache cannot be written to."""


def cache_folder() -> Path:
    """Where the folders lie: $GFL_CACHE, or gfl/ in the user's cache."""
    named = os.environ.get(CACHE)
    return Path(named or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gfl").expanduser()


def make_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that is not there: it is there whole or not at all, and of several processes one makes it.

    fill: writes its files into a draft. Raises NoCacheError where that cannot be.
    """
    if folder.is_dir():
        return
    from filelock import FileLock  # late: who only counts detections has none

    draft = draft_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock", fallback_to_soft=False)
        lock.acquire()
    except OSError as error:
        raise NoCacheError from error
    try:
        if not folder.is_dir():
            draft.mkdir()
            fill(draft)
            draft.rename(folder)
    except OSError as error:
        raise NoCacheError from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        lock.release()
