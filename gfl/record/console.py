"""What a run prints while it works: a bar an epoch, a line an evaluation.

On a terminal `rich` keeps the bar in place; in a file it is a plain line every half minute. The run's train.log gets
all of it, whatever the console shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

from gfl.say import Output
from gfl.words import counted, duration, memory, short_number

if TYPE_CHECKING:  # imported when a bar is drawn: programs that draw none start faster without it
    from rich.live import Live

PLAIN_EVERY_S, REDRAW_EVERY_S = 30.0, 0.1  # between two lines in a file, and two drawings on a terminal
_BAR_CELLS = 8
# The numbers in the line of an evaluation, and their short names.
VALIDATION_NAMES = (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"), ("APs", "S"), ("APm", "M"), ("APl", "L"))


class EpochProgress(NamedTuple):
    """How far an epoch is."""

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


def bar(share: float, cells: int = _BAR_CELLS, *, full: str = "█", empty: str = "░") -> str:
    """A share of 0..1 -> a bar of `cells` characters."""
    filled = int(cells * min(max(share, 0.0), 1.0))
    return full * filled + empty * (cells - filled)


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
    """val   1/12 AP 18.2 AP50 34.0 ... | best -> best.pt, in percent; '-' where there are no boxes of a size.

    metrics: AP, AP50, AP75, APs, APm, APl, as shares of 1; others are not printed.
    best: the file that these weights were saved to as the best so far; None where they are not the best.
    """
    shares = [(short, metrics[name]) for name, short in VALIDATION_NAMES]
    numbers = " ".join(f"{short} {100 * share:.1f}" if share >= 0 else f"{short} -" for short, share in shares)
    return f"val   {epoch}/{epochs} {numbers}" + (f" | best -> {best}" if best else "")


class ProgressWriter:
    """Prints lines, and the bar of the current epoch; with stream=None nothing (every rank but the first).

    On a terminal the bar is redrawn in place, cut to the terminal's width; elsewhere it is a plain line every
    PLAIN_EVERY_S and at the end of the epoch. An output that fails never stops a run: see `gfl.say.Output`.

    log: a file that gets every line, and the bar as elsewhere; what it holds already stays.
    quiet: show nothing but what `tell` is given; the log is the same.
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        log: Path | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = Output(stream)
        self._terminal = self._output.isatty()
        self._path, self._quiet, self._clock = log, quiet, clock
        self._logged = False
        self._next_s = clock() if self._terminal else clock() + PLAIN_EVERY_S
        self._next_logged_s = clock() + PLAIN_EVERY_S
        self._live: Live | None = None  # the bar in place

    def line(self, text: str) -> None:
        """Print a line; a bar that is open is left above it."""
        if not self._quiet:
            self._print(text)
        self.log(text)

    def tell(self, text: str) -> None:
        """Print a line that a quiet run shows too: a note, or its end."""
        self._print(text)
        self.log(text)

    def log(self, text: str) -> None:
        """Write a line to the log alone."""
        self._logged = True
        if self._path is not None:
            # Opened anew each time: lines are few, and no handle is left open however the run ends. What cannot be
            # written is lost, as on a console: log.jsonl is the record, and its failure ends the run.
            with suppress(OSError), open(self._path, "a", encoding="utf-8", errors="backslashreplace") as handle:
                handle.write(text + "\n")

    def log_end(self, text: str) -> None:
        """Write to the log alone why the run ends; nothing before the first line: a refused run leaves no trace."""
        if self._logged:
            self.log(text)

    def update(self, progress: EpochProgress) -> None:
        """Show how far the epoch is, if the last time is long enough ago, and always at the epoch's last step."""
        finished = progress.step >= progress.steps
        now = self._clock()
        if finished or now >= self._next_logged_s:
            self._next_logged_s = now + PLAIN_EVERY_S
            self.log(epoch_line(progress))
        if self._quiet or (not finished and now < self._next_s):
            return
        self._next_s = now + (REDRAW_EVERY_S if self._terminal else PLAIN_EVERY_S)
        if self._terminal:
            self._draw(progress)
        else:
            self._print(epoch_line(progress))
        if finished:
            self.close()

    def close(self) -> None:
        """End an open bar, so that what follows (an error, the shell's prompt) begins on a line of its own."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self.close()
        self._output.write(text + "\n")

    def _draw(self, progress: EpochProgress) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        full, empty = "█░" if self._output.encoding.startswith("utf") else "#."
        drawn_bar = bar(progress.step / max(progress.steps, 1), full=full, empty=empty)
        text = Text(epoch_line(progress, drawn_bar), no_wrap=True, overflow="crop")
        if self._live is None:
            console = Console(file=cast(TextIO, self._output), force_terminal=True, color_system=None)
            self._live = Live(text, console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
            console.show_cursor()  # Live hides it, and a run that is killed would leave it hidden
        self._live.update(text, refresh=True)
