"""How far infer says it is: a bar on a terminal, lines in a log file, nothing for a short run."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import pytest

import infer.progress
from infer.progress import DELAY_S, QUIET_S, Progress, progress_line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """time.monotonic, as the test sets it."""
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(infer.progress, "time", clock)
    return clock


@contextlib.contextmanager
def terminal() -> Iterator[io.BytesIO]:
    """What a terminal gets, as stderr, that shows ASCII alone."""
    shown = io.BytesIO()
    stderr = io.TextIOWrapper(shown, encoding="ascii", errors="strict", write_through=True)
    with mock.patch.object(stderr, "isatty", return_value=True), contextlib.redirect_stderr(stderr):
        yield shown
    stderr.detach()  # or it closes what was shown


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


def test_a_log_file_gets_a_line_every_half_minute(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10) as progress:
        for _ in range(5):
            clock.now += QUIET_S / 2
            progress.advance()
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == (
        "",
        ["2/10 img, 20% | 0.1 img/s | eta 2:00", "4/10 img, 40% | 0.1 img/s | eta 1:30"],
    )


@pytest.mark.parametrize("total", [10, 0])
def test_a_terminal_gets_a_bar_after_a_moment(total: int, clock: SimpleNamespace) -> None:
    with terminal() as shown, Progress(total) as progress:
        progress.advance()
        assert shown.getvalue() == b""
        clock.now += 2 * DELAY_S
        progress.advance()
    assert progress_line(2, total, 2 * DELAY_S) in shown.getvalue().decode()
    assert shown.getvalue().endswith((b"\n", b"\n\x1b[?25h"))  # what is printed next begins on a line of its own


def test_a_terminal_without_rich_gets_lines(clock: SimpleNamespace) -> None:
    with mock.patch.dict(sys.modules, {"rich.progress": None}), terminal() as shown, Progress(10) as progress:
        clock.now += QUIET_S
        progress.advance()
    assert shown.getvalue() == b"1/10 img, 10% | 0.0 img/s | eta 4:30\n"
