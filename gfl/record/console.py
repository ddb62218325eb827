"""What a run says while it works: its head lines, a bar an epoch, a line an evaluation.

A line of our own rather than tqdm: it has parts that tqdm would not lay out (losses, data wait, memory), and in a log
file it becomes a plain line every half minute instead of a string of carriage returns.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TextIO

from gfl.report.words import counted, duration, memory, short_number

_BAR_CELLS = 8
# The numbers of a line an evaluation, under the names that fit it.
_VALIDATION_NAMES = (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"), ("APs", "S"), ("APm", "M"), ("APl", "L"))


class EpochProgress(NamedTuple):
    """Where an epoch stands."""

    epoch: int  # from 1
    epochs: int
    step: int  # steps of this epoch that are done
    steps: int
    losses: Mapping[str, float]  # by name, in the order to print
    img_per_s: float
    data_wait: float  # share of the time spent waiting for data, 0..1
    memory_bytes: int | None = None  # the device's peak; None where it has no count of its own
    eta_s: float | None = None  # to the end of the run; None where nothing is known yet
    skipped: int = 0  # steps that the loss scale skipped so far


# ---- pieces of a line ------------------------------------------------------------------------------------------------


def bar(share: float, cells: int = _BAR_CELLS, *, full: str = "█", empty: str = "░") -> str:
    """A share of 0..1 -> a bar of so many cells."""
    filled = int(cells * min(max(share, 0.0), 1.0))
    return full * filled + empty * (cells - filled)


def remaining_s(done: int, total: int, elapsed_s: float) -> float | None:
    """Seconds to go, if the rest takes as long a step as what this process has done; None before the first step."""
    return elapsed_s / done * (total - done) if done else None


# ---- lines -----------------------------------------------------------------------------------------------------------


def epoch_line(progress: EpochProgress, drawn_bar: str = "") -> str:
    """epoch 1/12 ████████ 150/150 qfl .41 dfl .29 giou .52 | 27 img/s, data wait 3% | 9.1 GB | eta 41:10."""
    losses = " ".join(f"{name} {short_number(value)}" for name, value in progress.losses.items())
    epoch = f"{progress.epoch}/{progress.epochs}"
    steps = f"{progress.step:{len(str(progress.steps))}}/{progress.steps}"
    speed = f"{progress.img_per_s:.0f}" if progress.img_per_s >= 10 else f"{progress.img_per_s:.1f}"
    parts = [
        " ".join(part for part in (f"epoch {epoch}", drawn_bar, steps, losses) if part),
        f"{speed} img/s, data wait {progress.data_wait:.0%}",
        counted(progress.skipped, "step") + " skipped" if progress.skipped else "",
        "" if progress.memory_bytes is None else memory(progress.memory_bytes),
        "" if progress.eta_s is None else f"eta {duration(progress.eta_s)}",
    ]
    return " | ".join(part for part in parts if part)


def validation_line(epoch: int, epochs: int, metrics: Mapping[str, float], best: str | None = None) -> str:
    """val   1/12 AP 18.2 AP50 34.0 ... | best -> best.pt: shares of 1 in percent; '-' where nothing was there to find.

    metrics: AP, AP50, AP75, APs, APm, APl (others are not printed). best: the file that this evaluation's weights went
    to as the best so far; None where they are not.
    """
    shares = [(short, metrics[name]) for name, short in _VALIDATION_NAMES]
    numbers = " ".join(f"{short} {100 * share:.1f}" if share >= 0 else f"{short} -" for short, share in shares)
    return f"val   {epoch}/{epochs} {numbers}" + (f" | best -> {best}" if best else "")


# ---- the writer ------------------------------------------------------------------------------------------------------


class ProgressWriter:
    """Writes lines and the bar to a stream; never stops a run: a stream that fails is written to no more.

    On a terminal the bar redraws in place, cut to the terminal's width; elsewhere it is a plain line every
    `plain_every_s` seconds and at the end of the epoch. With stream=None it is silent (every process but the first).
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        plain_every_s: float = 30.0,
        redraw_every_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._terminal = stream is not None and stream.isatty()
        self._every_s = redraw_every_s if self._terminal else plain_every_s
        self._clock = clock
        self._next_s = clock() if self._terminal else clock() + plain_every_s
        self._bar_open = False
        self._full, self._empty = ("█", "░") if _can_encode(stream, "█░") else ("#", ".")

    def line(self, text: str) -> None:
        """A line that stays, below the bar if one is open."""
        self._end_bar()
        self._write(text + "\n")

    def update(self, progress: EpochProgress) -> None:
        """Show where the epoch stands: when it is time to, and always at the epoch's last step."""
        finished = progress.step >= progress.steps
        now = self._clock()
        if not finished and now < self._next_s:
            return
        self._next_s = now + self._every_s
        if self._terminal:
            self._draw(progress)
        else:
            self._write(epoch_line(progress) + "\n")
        if finished:
            self._end_bar()

    def close(self) -> None:
        """End an open bar, so that what follows (an error, the shell's prompt) begins on a line of its own."""
        self._end_bar()

    def _draw(self, progress: EpochProgress) -> None:
        drawn = bar(progress.step / max(progress.steps, 1), full=self._full, empty=self._empty)
        columns = shutil.get_terminal_size().columns
        # \x1b[K clears what a longer line left; the last column stays free, or some terminals wrap.
        self._write("\r" + epoch_line(progress, drawn)[: columns - 1] + "\x1b[K")
        self._bar_open = True

    def _end_bar(self) -> None:
        if self._bar_open:
            self._write("\n")
            self._bar_open = False

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            # A class name that the terminal cannot show must not end the line, let alone the run.
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # the reader of a pipe went away, the disk is full, or the stream is closed
            self._stream = None


def _can_encode(stream: TextIO | None, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
