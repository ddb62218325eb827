"""Processes that work items off in order, each over pipes of its own, and what is said of one that is gone or silent.

They live as long as the program and have no name, file or thread outside themselves: one that is killed is noticed by
the system's own sign of it, and when the program is gone, however it ended, its pipes close and they end too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

import cv2

from gfl.errors import InputError, first_line
from gfl.memory import is_memory_error
from gfl.signals import obey_the_parent_alone

GONE_S = 5.0  # for a killed process to be gone
SILENCE_S = 1800.0  # without an answer; the slowest disk is faster
# A process of this niceness gets a tenth of a core that another one wants. Threads of a training step wait for each
# other some thousand times a step, so that each of them that gives way to a worker holds up all; the worker's few
# milliseconds have time until the step's end.
NICENESS = 10
CRASHES = ("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE")  # of code, where SIGKILL and SIGBUS mostly mean memory
MEND = "set WORKERS (--workers of gfl.evaluate) to 0, or lower, and lower BATCH_SIZE if that is not enough"

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Failure(NamedTuple):
    """Why there is no answer to an item."""

    text: str  # where memory did not suffice: the reason; else the traceback
    is_memory: bool


class _Worker(NamedTuple):
    process: BaseProcess
    items: Connection
    answers: Connection


class Workers(Generic[Item, Answer]):
    """`count` processes, numbered from 0, that call `work` on each item in the order in which they get them."""

    def __init__(self, count: int, work: Callable[[Item], Answer]) -> None:
        """Raises InputError where the system allows no more processes or open files.

        work: a function that can be pickled, but where processes are forked.
        """
        self._workers: list[_Worker] = []
        self.close = weakref.finalize(self, _end, self._workers, os.getpid())
        try:
            for _ in range(count):
                self._workers.append(_start(work))
        except OSError as error:
            started = len(self._workers)
            self.close()
            raise InputError(
                f"got WORKERS = {count}, of which only {started} could be started ({first_line(error)}); set WORKERS "
                f"(--workers of gfl.evaluate) to at most {started}, or allow more open files with `ulimit -n 65536`"
            ) from error

    def __len__(self) -> int:
        return len(self._workers)

    def give(self, number: int, item: Item) -> None:
        """Hand an item to a worker, which does not wait for it."""
        with suppress(BrokenPipeError):  # it is gone, as `take` will say
            self._workers[number].items.send(item)

    def take(self, number: int, reading: str = "its batch") -> Answer:
        """A worker's next answer; reading: what it is of, in words.

        Raises InputError where the worker is gone, says nothing, or has too little memory.
        """
        process, _, answers = self._workers[number]
        if not wait([answers, process.sentinel], SILENCE_S):
            raise InputError(
                f"got no batch for {SILENCE_S:g} seconds from a process that reads {reading}; check the disk or the "
                f"network that holds them, or {MEND}"
            )
        try:
            answer: Answer | Failure | None = answers.recv() if answers.poll() else None
        except (EOFError, OSError):
            answer = None
        if answer is None:
            raise InputError(_how_it_ended(process, reading))
        if not isinstance(answer, Failure):
            return answer
        if answer.is_memory:
            raise InputError(f"memory ran out in a process that read {reading} ({answer.text}); {MEND}")
        raise RuntimeError(f"in a process that read {reading}:\n{answer.text}")


def start_worker() -> None:
    """What makes a process a worker: one thread, since the workers themselves are the parallelism, after all else.

    It ends when its program says so, and not by a signal to all of a terminal's or a batch job's processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    obey_the_parent_alone()
    cv2.setNumThreads(0)
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)


def _start(work: Callable[[Item], Answer]) -> _Worker:
    items_read, items_write = multiprocessing.Pipe(duplex=False)
    answers_read, answers_write = multiprocessing.Pipe(duplex=False)
    ours = (items_write, answers_read)
    try:
        process = multiprocessing.Process(target=_serve, args=(items_read, answers_write, ours, work), daemon=True)
        process.start()
    except BaseException:
        items_write.close()
        answers_read.close()
        raise
    finally:  # the worker has its own
        items_read.close()
        answers_write.close()
    return _Worker(process, *ours)


def _serve(
    items: Connection, answers: Connection, of_the_program: Sequence[Connection], work: Callable[[Item], Answer]
) -> None:
    """A worker's whole life. of_the_program: its ends, which are open here too, and would hide that it is gone."""
    start_worker()
    for connection in of_the_program:
        connection.close()
    waiting: SimpleQueue[Item] = SimpleQueue()
    threading.Thread(target=_receive, args=(items, waiting), name="receive", daemon=True).start()
    while True:
        answer: Answer | Failure
        try:
            answer = work(waiting.get())
        except Exception as error:
            is_memory = is_memory_error(error)
            answer = Failure(first_line(error) if is_memory else traceback.format_exc(), is_memory)
        try:
            answers.send(answer)
        except OSError:
            os._exit(0)  # the program is gone


def _receive(items: Connection, waiting: SimpleQueue[Item]) -> None:
    """Empty the pipe at all times: the program is never held up, and its end is noticed in the middle of a batch."""
    while True:
        try:
            waiting.put(items.recv())
        except (EOFError, OSError):
            os._exit(0)


def _how_it_ended(process: BaseProcess, reading: str) -> str:
    """That a worker is gone, and what to do: the system kills for memory, a decoder crashes by other signals."""
    process.join(1)
    code = process.exitcode
    end = f"exit code {code}"
    if code is not None and code < 0:
        end = f"signal {-code}"
        with suppress(ValueError):
            end = signal.Signals(-code).name
    if end in CRASHES:
        return (
            f"a process that read {reading} ended by {end}: a file may be broken in a way that makes the decoder "
            f"crash; leave these pictures out one after the other, or {MEND}"
        )
    return f"a process that read {reading} ended unexpectedly, by {end}: memory ran out, most likely; {MEND}"


def _end(workers: list[_Worker], owner: int) -> None:
    """End the processes at once: they only read, so that nothing is left half-written."""
    if os.getpid() != owner:  # in a copy of the program, which a fork made
        return
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(GONE_S)
        if not worker.process.is_alive():  # one that hangs in a disk's driver ends when that does
            worker.process.close()
        worker.items.close()
        worker.answers.close()
    workers.clear()
