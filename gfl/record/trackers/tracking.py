"""Hands a run's events to its trackers, each in a thread of its own: none stops or slows the run.

A tracker that raises, or takes too long, is dropped: that is said once, and the run goes on without it. Threads write
nothing to the console; what they have to say is said when the run next hands out an event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty, Full, Queue

from gfl.errors import first_line
from gfl.record.trackers.interface import Ended, Line, Started, Tracker
from gfl.words import headline, printable

MOST_WAITING = 1000  # events that wait for a tracker; of 20 log lines they are 2 MB
MOST_SECONDS = 60.0  # for one event
START_WAIT_S = 10.0  # for all trackers, before the loader starts its workers, which a busy thread could disturb
END_WAIT_S: Mapping[Ended, float] = {"finished": 30.0, "stopped": 10.0, "failed": 10.0}  # batch systems kill early


class _Sender:
    """A tracker, the thread that calls it, and the events that wait for it."""

    def __init__(self, name: str, tracker: Tracker, clock: Callable[[], float]) -> None:
        self.name, self.tracker = name, tracker
        self.where = ""  # to look, once it has started
        self.failure = ""  # why it was dropped
        self.told = False  # of the failure
        self.started = threading.Event()
        self._clock = clock
        self._busy_since: float | None = None
        self._events: Queue[Callable[[], None] | None] = Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, event: Callable[[], None] | None) -> None:
        """Let the thread do it, after what waits already. None: it was the last."""
        since = self._busy_since
        if self.failure:
            return
        if since is not None and self._clock() - since > MOST_SECONDS:
            self.failure = f"no answer for {self._clock() - since:.0f} s"
            return
        try:
            self._events.put_nowait(event)
        except Full:
            self.failure = f"{MOST_WAITING:,} events wait for it"

    def start(self, run: Started) -> None:
        self.where = self.tracker.start(run)

    def join(self, seconds: float) -> None:
        """Wait for the last event to be done; not for a tracker that has not even begun."""
        begun = self.started.is_set()
        if begun:
            self._thread.join(seconds)
        if self._thread.is_alive() and not self.failure:
            self.failure = "the last events were not sent in time" if begun else "no answer since the run began"

    def _work(self) -> None:
        while not self.failure:
            try:
                event = self._events.get(timeout=1.0)
            except Empty:
                continue  # to see whether it was dropped
            if event is None:
                return
            self._busy_since = self._clock()
            try:
                event()
            except BaseException as error:  # what a library may raise is not known, and SystemExit would be silent
                self.failure = self.failure or first_line(error)
            self._busy_since = None
            self.started.set()


class Tracking:
    """The trackers of a run; none on the ranks but the first."""

    def __init__(
        self,
        trackers: Mapping[str, Tracker] | None = None,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """tell: prints a note of a tracker that was dropped."""
        self._senders = [_Sender(name, tracker, clock) for name, tracker in (trackers or {}).items()]
        self._tell = tell

    @contextmanager
    def of(self, run: Started, say: Callable[[str], None]) -> Iterator[None]:
        """Tell the trackers of the start, and after the block of the end. say: prints where to look."""
        self._start(run, say)
        try:
            yield
        except KeyboardInterrupt:
            self._end("stopped")
            raise
        except BaseException:
            self._end("failed")
            raise
        self._end("finished")

    def steps(self, rows: Sequence[Mapping[str, object]]) -> None:
        """New lines of the log; of each row, the numbers are tracked. Each has the key `step`."""
        if self._senders:
            lines = [Line(int(str(row["step"])), _numbers("train", row)) for row in rows]
            self._put(lambda tracker: tracker.steps(lines))

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of an evaluation; those below 0 say that there was nothing to measure, and are left out."""
        if self._senders:
            line = Line(step, _numbers("val", {name: value for name, value in metrics.items() if value >= 0}))
            self._put(lambda tracker: tracker.evaluation(line))

    def _start(self, run: Started, say: Callable[[str], None]) -> None:
        for sender in self._senders:
            sender.put(partial(sender.start, run))
        deadline = time.monotonic() + START_WAIT_S
        for sender in self._senders:
            sender.started.wait(max(deadline - time.monotonic(), 0))
            if not sender.failure:
                say(headline("tracker", sender.name, printable(sender.where or "has not answered yet")))
        self._tell_failures()

    def _end(self, how: Ended) -> None:
        self._put(lambda tracker: tracker.end(how))
        deadline = time.monotonic() + END_WAIT_S[how]
        for sender in self._senders:
            sender.put(None)
        for sender in self._senders:
            sender.join(max(deadline - time.monotonic(), 0))
        self._tell_failures()

    def _put(self, event: Callable[[Tracker], None]) -> None:
        for sender in self._senders:
            sender.put(partial(event, sender.tracker))
        self._tell_failures()

    def _tell_failures(self) -> None:
        for sender in self._senders:
            if sender.failure and not sender.told:
                sender.told = True
                self._tell(
                    f"note: the tracker {sender.name} was dropped ({sender.failure}); the run goes on without it"
                )


NOT_TRACKED = Tracking()


def _numbers(group: str, row: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a row but its step, under names that trackers sort by group."""
    return {
        f"{group}/{name}": float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
