"""Worker processes: answers in order, an end that is noticed and told, and nothing that outlives the program."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from gfl.data import workers as workers_module
from gfl.data.workers import NICENESS, Workers
from gfl.errors import InputError

forked = pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="hands over functions of a test")


def doubled(item: int) -> int:
    return 2 * item


def no_memory(_: int) -> int:
    raise MemoryError


def out_of_memory(_: int) -> int:
    raise cv2.error("OpenCV(5) error: (-4:Insufficient memory) Failed to allocate 25000000000 bytes")


def bug(_: int) -> int:
    raise RuntimeError("a bug")


def by_signal(number: int) -> Callable[[int], int]:
    def work(_: int) -> int:
        faulthandler.disable()  # pytest's, which would write where it happened
        os.kill(os.getpid(), number)
        return 0

    return work


def test_a_worker_answers_in_the_order_of_its_items() -> None:
    workers = Workers(2, doubled)
    for item in range(6):
        workers.give(item % 2, item)
    assert [workers.take(item % 2) for item in range(6)] == [0, 2, 4, 6, 8, 10]
    workers.close()


def test_items_and_answers_larger_than_a_pipe_hold_up_nobody() -> None:
    workers = Workers(1, bytes)  # returns its argument
    for number in range(4):
        workers.give(0, bytes([number]) * 1_000_000)
    for number in range(4):
        assert workers.take(0) == bytes([number]) * 1_000_000
    workers.close()


@forked
@pytest.mark.parametrize(
    ("work", "said"),
    [
        (no_memory, "MemoryError"),
        (out_of_memory, "Failed to allocate"),
        (by_signal(signal.SIGKILL), "ended unexpectedly, by SIGKILL"),
        (by_signal(signal.SIGBUS), "ended unexpectedly, by SIGBUS"),
        (by_signal(signal.SIGSEGV), "ended by SIGSEGV: a file may be broken"),
        (lambda _: os._exit(3), "ended unexpectedly, by exit code 3"),
    ],
)
def test_a_worker_without_an_answer_is_told_in_a_sentence(work: Callable[[int], int], said: str) -> None:
    workers = Workers(2, work)
    workers.give(1, 0)
    with pytest.raises(InputError, match=rf"{said}.*WORKERS .*to 0.*BATCH_SIZE") as told:
        workers.take(1, "a.jpg")
    assert "read a.jpg" in str(told.value)
    assert "\n" not in str(told.value)
    workers.close()


@forked
def test_an_item_for_a_worker_that_is_gone_is_no_error_of_its_own() -> None:
    workers = Workers(1, by_signal(signal.SIGKILL))
    workers.give(0, 0)
    with pytest.raises(InputError, match="SIGKILL"):
        workers.take(0)
    for _ in range(3):
        workers.give(0, 1)
    with pytest.raises(InputError, match="SIGKILL"):
        workers.take(0)
    workers.close()


@forked
def test_a_bug_keeps_its_traceback() -> None:
    workers = Workers(1, bug)
    workers.give(0, 0)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*test_workers\.py.*RuntimeError: a bug"):
        workers.take(0)
    workers.close()


@forked
def test_a_worker_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "SILENCE_S", 0.2)
    workers = Workers(1, lambda _: signal.pause())
    workers.give(0, 0)
    with pytest.raises(InputError, match=r"no batch for 0\.2 seconds .*WORKERS"):
        workers.take(0)
    workers.close()


def test_workers_that_the_system_does_not_allow_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = workers_module._start, []

    def two(work: Callable[[int], int]) -> object:
        if len(started) == 2:
            raise OSError(24, "Too many open files")
        started.append(start(work))
        return started[-1]

    monkeypatch.setattr(workers_module, "_start", two)
    with pytest.raises(InputError, match=r"WORKERS = 5, of which only 2 .*Too many open files.*to at most 2.*ulimit"):
        Workers(5, doubled)
    for worker in started:
        with pytest.raises(ValueError, match="closed"):  # it was ended and its process object let go
            worker.process.is_alive()


@forked
def test_a_worker_gives_way_and_does_not_listen_to_the_terminal() -> None:
    workers = Workers(1, lambda _: (os.nice(0), cv2.getNumThreads(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN))
    workers.give(0, 0)
    assert workers.take(0) == (min(19, os.nice(0) + NICENESS), 1, True)
    workers.close()


def test_workers_end_with_who_uses_them() -> None:
    workers = Workers(2, doubled)
    processes = [worker.process for worker in workers._workers]
    identities = [process.pid for process in processes]
    del workers
    gc.collect()
    assert not {process.pid for process in multiprocessing.active_children()} & set(identities)


PROGRAM = """
import os, signal, sys, time
from gfl.data.workers import Workers
def work(_):
    time.sleep(60)
if __name__ == "__main__":
    workers = Workers(3, work)
    for number in range(3):
        workers.give(number, 0)
    print(*(worker.process.pid for worker in workers._workers), flush=True)
    {end}
"""


def is_gone(process: int) -> bool:
    """Whether no such process runs; one that is dead and not yet waited for counts as gone."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks Linux for processes")
@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt"])
def test_workers_in_the_middle_of_a_batch_end_with_their_program_however_it_ends(end: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(end=end))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False, timeout=50
    )
    processes = [int(text) for text in done.stdout.split()]
    assert len(processes) == 3
    until = time.monotonic() + 10
    while not all(map(is_gone, processes)) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(map(is_gone, processes))
    assert "resource_tracker" not in done.stderr
    if end == "pass":
        assert done.stderr == ""
