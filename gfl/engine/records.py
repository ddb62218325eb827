"""A run's folder: its lock, and what a run leaves behind for people and for --resume.

Whole files are written beside their place and moved into it, so that a reader never sees half of one; log.jsonl and
results.csv only grow. Only the first process of a distributed run opens the folder.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from gfl.errors import InputError

LOG = "log.jsonl"
RESULTS = "results.csv"
LAST = "last.pt"
_LOCK = ".lock"
_RUN_FILES = ("config.gin", LOG, LAST)  # any of these says that a folder holds a run
_MENDS = {
    errno.ENOSPC: "free some space or take another --workdir",
    errno.EDQUOT: "free some of your quota or take another --workdir",
    errno.EACCES: "take a --workdir that you may write to",
    errno.EPERM: "take a --workdir that you may write to",
    errno.EROFS: "take a --workdir that you may write to",
}
# Environment variables that change a run's numbers or devices; the rest may hold secrets and is not recorded.
_VARIABLES = re.compile(
    r"(OMP|MKL)_NUM_THREADS|(CUDA|ASCEND_RT)_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|WORLD_SIZE|LOCAL_WORLD_SIZE"
)


# ---- writing files ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary handle whose content becomes `path` when the block ends well, and vanishes when it does not.

    Raises InputError, naming the path, where the file system refuses (no space, no permission, no such folder).
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _write_errors(path):
            with open(unfinished, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()  # there only when the block failed


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file at once; text as UTF-8. Raises as `atomic_file`."""
    with atomic_file(path) as handle:
        handle.write(_encoded(content) if isinstance(content, str) else content)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # file names that are no Unicode hold lone surrogates


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinities become null; NumPy values, paths and tuples are converted."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False, default=_plain, ensure_ascii=False)
    except ValueError:  # rare: copy the tree only when something in it is not finite
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
    """Make a rename outlive a power cut, where the system lets a folder be opened (Windows does not)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save turns a handle's OSError into a RuntimeError about file positions: look behind it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        mend = _MENDS.get(cause.errno or 0, "check the path or take another --workdir")
        raise InputError(f"cannot write {path}: {cause.strerror or cause}; {mend}") from error


def _append(path: Path, text: str) -> None:
    """Add text to the end of a file, all of it or nothing."""
    with _write_errors(path), open(path, "ab", buffering=0) as handle:
        before = handle.seek(0, os.SEEK_END)
        rest = memoryview(_encoded(text))
        try:
            while rest:  # a full disk may take a part and refuse the next
                rest = rest[handle.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                handle.truncate(before)
            raise


# ---- what --resume cuts ----------------------------------------------------------------------------------------------


def cut_log(path: Path, step: int) -> int:
    """Drop the lines of a log.jsonl whose `step` lies past the given one; the number of lines dropped.

    A last line that a killed run left half-written is dropped too; a missing file has nothing to drop.
    Raises InputError for a broken line elsewhere.
    """

    def keep(line: str) -> bool:
        return int(json.loads(line)["step"]) <= step

    return _cut(path, keep, header_lines=0)


def cut_results(path: Path, step: int) -> int:
    """Drop the rows of a results.csv whose `step` lies past the given one; as `cut_log`."""
    column = 0

    def keep(line: str) -> bool:
        return int(next(csv.reader([line]))[column]) <= step

    if path.exists():
        with open(path, encoding="utf-8", newline="") as handle:
            header = next(csv.reader(handle), ["step"])
        if "step" not in header:
            raise InputError(f"{path} has no column `step` (got {header}); move it away to resume without it")
        column = header.index("step")
    return _cut(path, keep, header_lines=1)


def _cut(path: Path, keep: Callable[[str], bool], *, header_lines: int) -> int:
    if not path.exists():
        return 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as handle:  # lines end at \n and nowhere else
        lines = list(handle)
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.endswith("\n") and (number <= header_lines or keep(line)):
                kept.append(line)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if number < len(lines):
                raise InputError(
                    f"line {number} of {path} is broken ({error}); mend it or move the file away to resume without it"
                ) from error
    if len(kept) < len(lines):
        write_atomic(path, "".join(kept))
    return len(lines) - len(kept)


# ---- the lock --------------------------------------------------------------------------------------------------------


class _Lock:
    """The folder's `.lock`: one line `pid host start`. A lock whose process is gone is taken over.

    Processes are compared by pid and start time, because pids are used again. A lock of another host is trusted:
    nothing here can tell whether that process still lives.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        self._owner = f"{os.getpid()} {socket.gethostname()} {_process_start(os.getpid())}"
        for _ in range(2):  # the second time after a stale lock was moved away
            if self._create():
                return
            self._remove_stale()
        raise self._refusal(self._read())

    def release(self) -> None:
        """Give the lock back, if it is still this process's own."""
        if self._owner.startswith(f"{os.getpid()} ") and self._read() == self._owner:  # not in a forked worker
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _create(self) -> bool:
        with _write_errors(self._path):
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            try:
                os.write(descriptor, self._owner.encode())
            except OSError:
                self._path.unlink()
                raise
            finally:
                os.close(descriptor)
        return True

    def _read(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8").strip()
        except OSError:
            return None

    def _remove_stale(self) -> None:
        found = self._read()
        if found is None:  # released since
            return
        if _lives(found):
            raise self._refusal(found)
        aside = self._path.with_name(f"{_LOCK}.{os.getpid()}.tmp")
        with _write_errors(self._path):
            os.rename(self._path, aside)
            if aside.read_text(encoding="utf-8").strip() != found:  # another process was quicker: this is its lock
                os.rename(aside, self._path)
                raise self._refusal(self._read())
            aside.unlink()

    def _refusal(self, owner: str | None) -> InputError:
        pid, host, *_ = [*(owner or "").split(" "), "unknown", "unknown"]
        return InputError(
            f"the workdir {self._path.parent} is in use by process {pid or 'unknown'} on {host}; give another "
            f"--workdir, or wait for that run to end (if it is gone for certain, delete {self._path})"
        )


def _lives(owner: str) -> bool:
    """Whether the process named in a lock may still run."""
    pid, _, rest = owner.partition(" ")
    host, _, start = rest.partition(" ")
    if not pid.isdigit() or host != socket.gethostname() or os.name == "nt":  # os.kill ends a process of Windows
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it lives, and is another user's
        return True
    return start == _process_start(int(pid))


def _process_start(pid: int) -> str:
    """When a process began, as `boot/ticks`; '-' where the system has no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot}/{status.rpartition(')')[2].split()[19]}"  # field 22, counted after the name in brackets
    except (OSError, IndexError):
        return "-"


# ---- the folder ------------------------------------------------------------------------------------------------------


class RunFolder:
    """A run's open folder; the lock is held until `close`, or the end of the `with` block."""

    def __init__(self, path: Path, lock: _Lock, *, resumed: bool, made: bool) -> None:
        self.path = path
        self.resumed = resumed
        self._lock = lock
        self._made = made

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; one that this run made and wrote nothing into is removed."""
        self._lock.release()
        if self._made:
            with contextlib.suppress(OSError):  # not empty, or gone
                self.path.rmdir()

    def write_text(self, name: str, text: str) -> None:
        """Write config.gin, operative.gin and the like, whole."""
        write_atomic(self.path / name, text)

    def write_json(self, name: str, value: object) -> None:
        """Write metrics.json, val_detections.json and the like, whole; NaN becomes null."""
        # Objects are read by people, lists (detections: one of COCO has 500,000) by programs.
        write_atomic(self.path / name, to_json(value, indent=2 if isinstance(value, Mapping) else None) + "\n")

    def write_environment(self, command: Sequence[str], more: Mapping[str, object] | None = None) -> None:
        """Write env.json: `environment(command)` and what the caller adds (device, precision, world size)."""
        self.write_json("env.json", {**environment(command), **(more or {})})

    def append(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add lines to log.jsonl, all in one write or none; each needs the key `step`."""
        _append(self.path / LOG, "".join(to_json(line) + "\n" for line in lines))

    def append_result(self, row: Mapping[str, float | int | str | None]) -> None:
        """Add an evaluation to results.csv; the first row's keys (`step` among them) become the columns.

        None and NaN are left blank. Raises ValueError for keys other than the columns.
        """
        path = self.path / RESULTS
        columns, fresh = list(row), True
        if path.exists() and path.stat().st_size:
            with open(path, encoding="utf-8", newline="") as handle:
                columns, fresh = next(csv.reader(handle)), False
        if "step" not in columns or set(columns) != set(row):
            raise ValueError(f"results.csv got the columns {list(row)}; expected {columns}, with `step`")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if fresh:
            writer.writerow(columns)
        writer.writerow(["" if _is_nan(row[column]) else row[column] for column in columns])
        _append(path, text.getvalue())

    def cut(self, step: int) -> None:
        """Before going on from the checkpoint of `step`: drop what the log and the results say past it."""
        cut_log(self.path / LOG, step)
        cut_results(self.path / RESULTS, step)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def open_run(
    workdir: Path | None, config_name: str, *, resume: bool = False, runs: Path = Path("runs"), now: float | None = None
) -> RunFolder:
    """Make or reopen a run's folder, and lock it.

    workdir: None takes runs/<config_name>/<time>, or that with -2, -3, ... where it is taken.
    now: seconds since 1970, for the folder's name; None reads the clock.

    Raises InputError where another process uses the folder, where it holds a run and `resume` is not set, where
    `resume` finds no last.pt, and where the folder cannot be made.
    """
    if resume:
        if workdir is None:
            raise InputError("got --resume without --workdir; give --workdir, the folder of the run to go on with")
        if not (workdir / LAST).is_file():
            raise InputError(
                f"got --resume, but {workdir} has no {LAST}; give the --workdir of a run that has one, "
                "or start a new run without --resume"
            )
        lock = _Lock(workdir)
        _remove_unfinished(workdir)
        return RunFolder(workdir, lock, resumed=True, made=False)
    made = workdir is None or not workdir.exists()
    if workdir is None:
        workdir = _make_default_workdir(runs / config_name, time.time() if now is None else now)
    else:
        with _write_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
    lock = _Lock(workdir)
    try:
        _check_free(workdir)
    except InputError:
        lock.release()
        raise
    return RunFolder(workdir, lock, resumed=False, made=made)


def _make_default_workdir(parent: Path, now: float) -> Path:
    """Make <parent>/<time>; mkdir itself settles which of two runs of one second gets which name."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with _write_errors(folder):
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1


def _remove_unfinished(workdir: Path) -> None:
    """Remove what a killed run was writing: a checkpoint's half may be hundreds of megabytes."""
    for path in workdir.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def _check_free(workdir: Path) -> None:
    names = sorted(entry.name for entry in workdir.iterdir() if not entry.name.startswith("."))
    if any(name in _RUN_FILES for name in names):
        raise InputError(f"the workdir {workdir} holds a run; give --resume or another --workdir")
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(f"the workdir {workdir} is not empty ({shown}); give a new or an empty --workdir")


# ---- env.json --------------------------------------------------------------------------------------------------------


def environment(command: Sequence[str]) -> dict[str, object]:
    """What it takes to tell two runs apart: the command, the code's commit, the machine, every package's version."""
    return {
        "command": list(command),
        "folder": str(Path.cwd()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_commit(Path(__file__).resolve().parents[2]),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)},
        "packages": _packages(),
    }


def git_commit(folder: Path) -> str | None:
    """The commit of the git checkout whose top is `folder`, with '+changes' if files differ from it; else None."""

    def git(*arguments: str) -> str:
        finished = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return finished.stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout, whose commit would say nothing.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _packages() -> dict[str, str]:
    named = {
        str(distribution.metadata["Name"]): distribution.version
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]  # a broken install has none
    }
    return dict(sorted(named.items(), key=lambda entry: entry[0].lower()))
