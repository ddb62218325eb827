"""The lock of a run's folder, against real processes."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfl.errors import InputError
from gfl.record.lock import lock_folder, unlock_folder
from gfl.record.run_folder import open_run

ROOT = Path(__file__).resolve().parent.parent
# Locks a folder, forks a child as a loader's worker is one, says both process ids, and waits.
HOLDER = """
import os, sys, time
from pathlib import Path
from gfl.record.lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
ready, begun = os.pipe()
child = os.fork()
if not child:
    os.write(begun, b"x")  # it has let go of the lock: Python does so before fork returns
if child:
    os.read(ready, 1)
    print(os.getpid(), child, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The ids of another process that holds the lock of tmp_path, and of its child."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pid, child = map(int, process.stdout.readline().split())
        yield pid, child
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_a_workdir_in_use_is_refused_with_the_pid_even_to_the_same_process(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        (run.path / "last.pt").write_bytes(b"")
        for resume in (False, True):
            said = f"in use by process {os.getpid()} on {socket.gethostname()}; give"
            with pytest.raises(InputError, match=said), open_run(run.path, "r50", resume=resume):
                pass
    assert not (run.path / ".lock").exists()
    with open_run(tmp_path / "w", "r50", resume=True):  # free again
        pass


def test_a_workdir_is_refused_until_the_process_that_holds_it_is_killed(
    tmp_path: Path, holder: tuple[int, int]
) -> None:
    """Its child, which may live on for a while, does not hold the lock."""
    pid, _ = holder
    with pytest.raises(InputError, match=f"in use by process {pid} "), open_run(tmp_path, "r50"):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with open_run(tmp_path, "r50"):
        pass


@pytest.mark.parametrize("content", ["4711 another-host", "", "rubbish \xff"])
def test_a_file_that_nobody_locks_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_bytes(content.encode("latin-1"))
    with open_run(tmp_path, "r50"):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}"


def test_a_holder_that_does_not_say_who_it_is_is_another_process(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    (tmp_path / ".lock").write_text("")
    with pytest.raises(InputError, match="in use by another process; give another --workdir, or wait"):
        lock_folder(tmp_path)
    unlock_folder(lock)


def test_a_forked_worker_does_not_release_the_lock(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    worker = multiprocessing.get_context("fork").Process(target=unlock_folder, args=(lock,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    with pytest.raises(InputError, match=f"in use by process {os.getpid()} "):
        lock_folder(tmp_path)
    unlock_folder(lock)


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(
        InputError, match=r"cannot write .*\.lock: Function not implemented; give a folder on a file sys"
    ):
        lock_folder(tmp_path)
