"""What becomes of an output costs no result, no traceback and no exit code."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from gfl.errors import InputError
from gfl.say import Output, say

ROOT = Path(__file__).resolve().parent.parent
SAYS = (
    "from gfl.say import say; [say('line 猫') for _ in range(20000)]; open('result', 'w').close(); raise SystemExit(3)"
)
LIBRARY_PRINTS = "import gfl.say; print('a' * 5); raise SystemExit(3)"  # flushed by Python at its exit alone


def ends(program: str, outputs: str, folder: Path, **variables: str) -> tuple[int, str]:
    """Run a Python program in a shell with redirected outputs: its exit code, and what the shell saw of its stderr."""
    command = f"{sys.executable} -c '{program}' {outputs}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **variables}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_say_prints_to_the_streams_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    say("one")
    say("two", error=True)
    say("three", end="")
    assert capsys.readouterr() == ("one\nthree", "two\n")


def test_names_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\r\u202egpj.exe\x9b1m\udcff\nnext\tline 猫é")
    assert capsys.readouterr().out == "a\\x1b[2J\\r\\u202egpj.exe\\x9b1m\\xff\nnext\\tline 猫é\n"


def test_a_mistake_is_told_in_one_line() -> None:
    error = InputError("got a\nerror: all is well\x1b[0m, expected more")
    assert str(error) == r"got a\nerror: all is well\x1b[0m, expected more"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "outputs", ["> /dev/full", ">&-", "> /dev/full 2> /dev/full", ">&- 2>&-", "<&- >&- 2>&-"], ids=str
)
@pytest.mark.parametrize("program", [SAYS.replace("'", '"'), LIBRARY_PRINTS.replace("'", '"')], ids=["says", "prints"])
def test_an_output_that_fails_changes_nothing(program: str, outputs: str, tmp_path: Path) -> None:
    assert ends(program, outputs, tmp_path) == (3, "")
    assert (tmp_path / "result").exists() == (program != LIBRARY_PRINTS.replace("'", '"'))


def test_a_reader_that_goes_away_changes_nothing(tmp_path: Path) -> None:
    code, said = ends(SAYS.replace("'", '"'), "| head -n 1; exit ${PIPESTATUS[0]}", tmp_path)
    assert (code, said, (tmp_path / "result").exists()) == (3, "", True)


def test_what_an_output_cannot_encode_becomes_a_question_mark(tmp_path: Path) -> None:
    assert ends(SAYS.replace("'", '"'), "| sort -u > out", tmp_path, PYTHONIOENCODING="ascii") == (0, "")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "line ?\n"


def test_a_file_does_not_take_the_number_of_a_closed_output(tmp_path: Path) -> None:
    program = 'import os, gfl.say; f = open("result", "w"); os.write(1, b"noise"); os.write(2, b"noise")'
    assert ends(program, ">&- 2>&-", tmp_path)[0] == 0
    assert (tmp_path / "result").read_text(encoding="utf-8") == ""


def test_a_closed_stream_is_no_terminal_and_takes_everything() -> None:
    stream = io.StringIO()
    stream.close()
    for output in (Output(stream), Output(None)):
        assert not output.isatty()
        assert output.write("text") == 4
