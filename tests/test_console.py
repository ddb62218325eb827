"""What a run prints while it works, on a terminal and in a file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfl.record.console import EpochProgress, ProgressWriter, bar, epoch_line, validation_line

HIDE_CURSOR, SHOW_CURSOR, REDRAW = "\x1b[?25l", "\x1b[?25h", "\r\x1b[2K"
LAST = EpochProgress(1, 12, 150, 150, {"qfl": 0.41, "dfl": 0.29, "giou": 0.52}, 27.3, 0.03, 9_771_050_598, 2470.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal of some encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # StringIO has none to set
        return self._encoding

    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


class BrokenTerminal(Broken):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_a_bar_is_full_at_the_end_only_and_stays_in_its_cells() -> None:
    assert [bar(share, 4, full="#", empty=".") for share in (-1, 0, 0.5, 0.999, 1, 2)] == [
        *("....", "....", "##..", "###.", "####", "####")
    ]


def test_the_epoch_line_reads_as_promised() -> None:
    expected = "qfl .41 dfl .29 giou .52 | 27 img/s, data wait 3% | 9.1 GB | eta 41:10"
    assert epoch_line(LAST, bar(1.0)) == f"epoch 1/12 ████████ 150/150 {expected}"
    assert epoch_line(LAST) == f"epoch 1/12 150/150 {expected}"


def test_the_epoch_line_leaves_out_what_is_unknown_and_keeps_its_width() -> None:
    line = epoch_line(LAST._replace(step=9, losses={}, memory_bytes=None, eta_s=None, img_per_s=0.52, skipped=2))
    assert line == "epoch 1/12   9/150 | 0.5 img/s, data wait 3% | 2 steps skipped"


def test_the_validation_line_reads_as_promised() -> None:
    metrics = {"AP": 0.182, "AP50": 0.34, "AP75": 0.171, "APs": 0.04, "APm": 0.152, "APl": 0.259, "AR1": 0.1}
    line = "val   1/12 AP 18.2 AP50 34.0 AP75 17.1 S 4.0 M 15.2 L 25.9"
    assert validation_line(1, 12, metrics, best="best.pt") == line + " | best -> best.pt"
    assert validation_line(1, 12, {**metrics, "APs": -1.0}) == line.replace("S 4.0", "S -")


def test_a_file_gets_plain_lines_every_so_often_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    writer = ProgressWriter(stream, clock=clock)
    for step in range(1, 101):
        clock.now = float(step)
        writer.update(LAST._replace(step=step, steps=100))
    writer.close()
    text = stream.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    assert [line.split()[2] for line in text.splitlines()] == ["30/100", "60/100", "90/100", "100/100"]


def test_a_terminal_redraws_one_line_and_ends_it(wide: None) -> None:
    stream, clock = Terminal(), Clock()
    writer = ProgressWriter(stream, clock=clock)
    for step in (75, 76, 150):  # the second comes too soon to be drawn
        writer.update(LAST._replace(step=step))
        clock.now += 0.05
    writer.line("val   1/12")
    first, *drawings = stream.getvalue().replace(SHOW_CURSOR, "").split(REDRAW)
    assert first.removeprefix(HIDE_CURSOR).startswith("epoch 1/12 ████░░░░  75/150 ")
    *drawings, last = drawings
    assert set(drawings) == {epoch_line(LAST, bar(1.0))}
    assert last == epoch_line(LAST, bar(1.0)) + "\nval   1/12\n"
    assert stream.getvalue().rindex(SHOW_CURSOR) > stream.getvalue().rindex(HIDE_CURSOR)


def test_a_line_below_an_open_bar_begins_on_a_line_of_its_own(wide: None) -> None:
    stream = Terminal()
    writer = ProgressWriter(stream)
    writer.update(LAST._replace(step=3))
    writer.line("saved")
    writer.close()
    assert stream.getvalue().replace(SHOW_CURSOR, "").endswith("eta 41:10\nsaved\n")


def test_a_narrow_terminal_is_never_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    ProgressWriter(stream).update(LAST)
    drawings = stream.getvalue().replace(SHOW_CURSOR, "").replace(HIDE_CURSOR, "").split(REDRAW)
    assert {len(drawing.rstrip("\n")) for drawing in drawings} == {40}


def test_a_terminal_without_block_characters_gets_ascii(wide: None) -> None:
    stream = Terminal("ascii")
    writer = ProgressWriter(stream)
    writer.update(LAST._replace(step=75))
    writer.line("猫")
    assert "####.... " in stream.getvalue()
    assert stream.getvalue().endswith("?\n")
    assert stream.getvalue().isascii()


@pytest.mark.parametrize("kind", [Broken, BrokenTerminal])
def test_a_broken_pipe_silences_the_writer_and_not_the_run(kind: type[io.StringIO]) -> None:
    writer = ProgressWriter(kind())
    writer.line("one")
    writer.update(LAST)
    closed = io.StringIO()
    writer = ProgressWriter(closed)
    closed.close()
    writer.line("one")


def test_what_draws_no_bar_does_not_import_rich() -> None:
    program = (
        "import sys, gfl.record.console as c; c.ProgressWriter(sys.stdout).line('a'); sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_no_stream_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    writer = ProgressWriter(None)
    writer.line("one")
    writer.update(LAST)
    writer.close()
    assert capfd.readouterr() == ("", "")


# ---- the log ----


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal, Broken, None])
def test_the_log_is_plain_and_complete_whatever_the_console_shows(
    kind: type[io.StringIO] | None, quiet: bool, tmp_path: Path
) -> None:
    clock, log = Clock(), tmp_path / "train.log"
    writer = ProgressWriter(None if kind is None else kind(), log=log, quiet=quiet, clock=clock)
    writer.line("data")
    writer.tell("note    猫 \udce9")
    for step in range(1, 101):
        clock.now = float(step)
        writer.update(LAST._replace(step=step, steps=100))
    writer.log("log alone")
    steps = [epoch_line(LAST._replace(step=step, steps=100)) for step in (30, 60, 90, 100)]
    expected = ["data", "note    猫 \\udce9", *steps, "log alone"]
    assert log.read_text(encoding="utf-8").splitlines() == expected


def test_a_log_goes_on_after_what_it_holds(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    for text in ("one", "two"):
        ProgressWriter(None, log=log).line(text)
    assert log.read_text() == "one\ntwo\n"


def test_no_file_of_a_log_is_made_before_its_first_line(tmp_path: Path) -> None:
    ProgressWriter(io.StringIO(), log=tmp_path / "train.log").close()
    assert not (tmp_path / "train.log").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    for log in (tmp_path / "train.log", tmp_path, tmp_path / "nowhere" / "train.log"):
        stream = io.StringIO()
        ProgressWriter(stream, log=log).line("one")
        assert stream.getvalue() == "one\n"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_quiet_console_shows_what_it_is_told_alone(kind: type[io.StringIO]) -> None:
    stream = kind()
    writer = ProgressWriter(stream, quiet=True)
    writer.line("data")
    writer.update(LAST)
    writer.tell("note: look")
    assert stream.getvalue() == "note: look\n"
