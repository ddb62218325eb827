"""What a program does when a batch system or a terminal tells it to end: SIGTERM and SIGHUP.

Programs whose unfinished work is thrown away stop as at Ctrl-C: `interrupt_on_sigterm`. A training run first finishes
its step, so that it can write a checkpoint: `StopRequest`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows has one

Handler = Callable[[int, FrameType | None], object] | int  # as signal.signal takes it


class Stopped(KeyboardInterrupt):
    """A run that ends because of a signal: as at Ctrl-C, with an exit code of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stopped: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (stopped.number if isinstance(stopped, Stopped) else signal.SIGINT)


def interrupt_on_sigterm() -> None:
    """Let SIGTERM and SIGHUP stop this program as Ctrl-C does, so that nothing is left half-written.

    Batch systems send the first, terminals that close the second; where nohup ignores it, it stays ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, _pass_over)  # a second one must not disturb the end
    raise Stopped(number)


def _pass_over(number: int, _: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN it is not handed down to programs that are started meanwhile."""


class StopRequest:
    """Whether SIGTERM or SIGHUP came. In a `with` block it takes them; until `defer` they raise Stopped at once."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal that came; 0: none
        self._at_once = True
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> StopRequest:
        # Signals reach the main thread alone; what is ignored already (nohup) stays ignored.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before != signal.SIG_IGN:
                    self._before[number] = before or signal.SIG_DFL  # None: it was set by no Python code
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def defer(self) -> None:
        """From now on a signal is noted only, and the run looks after it where it can stop."""
        self._at_once = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In the block a signal raises Stopped again, also one that was noted before it: there is nothing to save."""
        try:
            self._at_once = not self.number
            if self.number:
                raise Stopped(self.number)
            yield
        finally:
            self.defer()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        if self._at_once:
            self._at_once = False  # a second signal must not disturb the end
            raise Stopped(number)


def obey_the_parent_alone() -> None:
    """In a worker process: ignore SIGHUP, and SIGTERM unless the process that started this one sends it.

    Batch systems send both to every process of a job. A worker that died of it would take its program's last step with
    it, while a program ends a worker that does not answer by SIGTERM.
    """
    import multiprocessing  # late: most programs that take signals have no workers

    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    started_by = parent.pid

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != started_by:
            pass
        os._exit(0)  # torch warns of a worker that ended otherwise

    threading.Thread(target=wait, name="obey", daemon=True).start()
