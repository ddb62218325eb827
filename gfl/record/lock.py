"""The lock of a run's folder: one process at a time writes there.

The kernel holds it on the file `.lock` and releases it when the process ends, however it ends: what a killed run leaves
of the file stops nobody. What stands in the file is for the error message alone.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from gfl.errors import InputError
from gfl.files import write_errors

LOCK = ".lock"


def lock_folder(folder: Path) -> BaseFileLock:
    """Lock a folder for this process; it stays locked until `unlock_folder`, or the process's end.

    Raises InputError where another process has locked it, and where its file system cannot be written to or has no
    locks.
    """
    path = folder / LOCK
    # No soft lock, a file that counts by being there: a run that is killed would leave it.
    lock = FileLock(path, fallback_to_soft=False)
    with write_errors(path):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"the workdir {folder} is in use by {_owner(path)}; give another --workdir, or wait for that run to end"
            ) from error
        with suppress(OSError):  # a full disk: the lock holds all the same
            path.write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
    return lock


def unlock_folder(lock: BaseFileLock) -> None:
    """Remove the lock's file and release it; nothing in a forked process, which never has the lock."""
    if lock.is_locked:
        with suppress(OSError):  # gone, or Windows, which removes no open file
            os.unlink(lock.lock_file)
        lock.release()


def _owner(path: Path) -> str:
    """'process 4711 on host', as far as the lock's file says it."""
    try:
        pid, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # not written yet, or not to be read while it is locked
        return "another process"
    return f"process {pid} on {host}"
