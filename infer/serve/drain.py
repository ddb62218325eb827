"""What a server does at SIGTERM, SIGHUP or Ctrl-C: refuse what is new, finish what is in flight, then end.

uvicorn's own way stops listening at once, so that who comes meanwhile finds nobody; here they are told 503.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gfl.signals import SIGNALS, Handler
from infer.serve.service import Service

LOOK_EVERY_S = 0.02


@contextmanager
def drained_at_signals(service: Service) -> Iterator[None]:
    """In the block, within uvicorn's own handlers, the first signal drains the service; a second one ends it."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield
        return
    loop = asyncio.get_running_loop()
    taken: dict[int, Handler] = {}
    waiting: list[asyncio.Task[None]] = []

    def begin() -> None:
        if service.draining:
            end()
            return
        service.draining = True
        waiting.append(loop.create_task(wait()))

    async def wait() -> None:
        latest = loop.time() + service.limits.timeout_s  # a client that reads no answer is not waited for longer
        while service.busy and loop.time() < latest:
            await asyncio.sleep(LOOK_EVERY_S)
        end()

    def end() -> None:
        """Let uvicorn end."""
        give_back()
        signal.raise_signal(signal.SIGTERM)

    def give_back() -> None:
        for number, before in taken.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)
        taken.clear()

    for number in (signal.SIGINT, *SIGNALS):
        before = signal.getsignal(number)
        if before != signal.SIG_IGN:  # nohup
            with suppress(NotImplementedError):  # Windows: uvicorn's own way
                loop.add_signal_handler(number, begin)
                taken[number] = before or signal.SIG_DFL
    try:
        yield
    finally:
        give_back()
        for task in waiting:
            task.cancel()


def pass_over_signals() -> None:
    """Let this process outlive the signal that ended its server, which uvicorn raises again when it is done."""
    for number in (signal.SIGINT, *SIGNALS):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
