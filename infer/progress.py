"""How far a run is, on stderr: a live bar on a terminal, a plain line every half minute in a log file."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO, cast

from gfl.say import Output, say
from gfl.words import duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

DELAY_S = 1.0  # a run that is done sooner shows no bar
QUIET_S = 30.0  # between two lines in a log file


class Progress:
    """Counts pictures as they are done, from any thread."""

    def __init__(self, total: int) -> None:
        """total: pictures to come; 0 where nobody knows."""
        self._total = total
        self._done = 0
        self._started = self._shown = time.monotonic()
        self._lock = threading.Lock()
        self._bar = open_bar()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, pictures: int = 1) -> None:
        """So many more pictures are done."""
        with self._lock:
            self._done += pictures
            now = time.monotonic()
            if self._bar is not None:
                if now - self._started >= DELAY_S:
                    self._bar.start()
                    text = progress_line(self._done, self._total, now - self._started)
                    self._bar.update(self._bar.task_ids[0], completed=self._done, total=self._total or None, text=text)
            elif now - self._shown >= QUIET_S:
                self._shown = now
                say(progress_line(self._done, self._total, now - self._started), error=True)


def open_bar() -> RichProgress | None:
    """A bar that is not shown yet; None where stderr is no terminal, and without the package rich, which an
    installation that only runs an .onnx may lack."""
    output = Output(sys.stderr)
    if not output.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        return None
    bar = Progress(
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(file=cast(TextIO, output)),
        redirect_stdout=False,
    )
    bar.add_task("", text="")
    return bar


def progress_line(done: int, total: int, elapsed_s: float) -> str:
    """'1200/5000 img, 24% | 40.1 img/s | eta 1:35'; '1200 img | 40.1 img/s' where the total is not known."""
    rate = done / elapsed_s
    if not total:
        return f"{done} img | {rate:.1f} img/s"
    return f"{done}/{total} img, {done / total:.0%} | {rate:.1f} img/s | eta {duration((total - done) / rate)}"
