"""How far infer says it is: a bar on a terminal, lines in a log file, nothing for a short run."""

from __future__ import annotations

import io
import sys
from unittest import mock

import pytest

from infer import progress
from infer.progress import DELAY_S, QUIET_S, Progress, progress_line


class Clock:
    """time.monotonic, as the test sets it."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.TextIOWrapper):
    """A terminal that shows ASCII alone."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", errors="strict", write_through=True)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        content = self.buffer
        assert isinstance(content, io.BytesIO)
        return content.getvalue().decode()


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (1200, 5000, "1200/5000 img, 24% | 40.0 img/s | eta 1:35"),
        (5000, 5000, "5000/5000 img, 100% | 166.7 img/s | eta 0:00"),
        (7, 0, "7 img | 0.2 img/s"),
    ],
)
def test_line_says_how_many_how_fast_and_how_long(done: int, total: int, line: str) -> None:
    assert progress_line(done, total, 30.0) == line


def test_a_log_file_gets_a_line_every_half_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10) as shown:
        for _ in range(5):
            clock.now += QUIET_S / 2
            shown.advance()
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == (
        "",
        ["2/10 img, 20% | 0.1 img/s | eta 2:00", "4/10 img, 40% | 0.1 img/s | eta 1:30"],
    )


@pytest.mark.parametrize("total", [10, 0])
def test_a_terminal_gets_a_bar_after_a_moment(total: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(total) as shown:
        shown.advance()
        assert terminal.shown() == ""
        clock.now += 2 * DELAY_S
        shown.advance()
    assert progress_line(2, total, 2 * DELAY_S) in terminal.shown()
    assert terminal.shown().rstrip("\x1b[?25h").endswith("\n")  # what is printed next begins on a line of its own


def test_a_terminal_without_rich_gets_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with mock.patch.dict(sys.modules, {"rich.progress": None}), Progress(10) as shown:
        clock.now += QUIET_S
        shown.advance()
    assert terminal.shown() == "1/10 img, 10% | 0.0 img/s | eta 4:30\n"
