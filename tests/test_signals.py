"""SIGTERM and SIGHUP: what a program makes of them, and what its workers do not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from gfl.signals import SIGNALS, Stopped, StopRequest, exit_code, obey_the_parent_alone

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs the signals of Linux")


def test_a_signal_ends_a_run_at_once_until_it_defers() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with StopRequest() as stop:
            with pytest.raises(Stopped) as stopped:
                os.kill(os.getpid(), number)
            assert exit_code(stopped.value) == 128 + number
            os.kill(os.getpid(), number)  # a second one does not disturb the end
            assert stop.number == number
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_deferred_signal_is_noted_and_the_first_one_counts() -> None:
    with StopRequest() as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGHUP


WRITER = """
import sys, time
from pathlib import Path
from gfl.files import atomic_file, new_folder
from gfl.signals import exit_code, interrupt_on_sigterm

interrupt_on_sigterm()
try:
    with new_folder(Path("folder")) as draft, atomic_file(Path("file")) as handle, atomic_file(draft / "file"):
        handle.write(b"half")
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt as stopped:
    sys.exit(exit_code(stopped))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, *SIGNALS])
def test_drafts_vanish_with_every_signal_and_the_exit_code_names_it(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", WRITER]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(number)
        assert writer.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "program",
    ["gfl/evaluate.py", "gfl/data/__main__.py", "gfl/data/synthetic.py", "gfl/npu_check/__main__.py", "infer/run.py"],
)
def test_programs_that_write_stop_at_signals(program: str) -> None:
    text = (Path(__file__).resolve().parents[1] / program).read_text(encoding="utf-8")
    assert text.rstrip().endswith("interrupt_on_sigterm()\n    sys.exit(main())") or "interrupt_on_sigterm()  #" in text
    assert "exit_code(stopped)" in text


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_keeps_its_exit_code() -> None:
    assert exit_code(KeyboardInterrupt()) == 130


def obedient(ready: Connection) -> None:
    obey_the_parent_alone()
    ready.send("ready")
    time.sleep(60)


def test_a_worker_ends_when_its_parent_says_so_and_not_when_others_do() -> None:
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=obedient, args=(there,), daemon=True)
    worker.start()
    assert here.recv() == "ready"
    for number in SIGNALS:
        stranger = os.posix_spawn("/bin/sh", ["sh", "-c", f"kill -{int(number)} {worker.pid}"], os.environ)
        os.waitpid(stranger, 0)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_a_program_that_was_stopped_leaves_no_signal_ignored_to_those_it_starts() -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "from gfl.signals import Stopped, interrupt_on_sigterm\n"
        "interrupt_on_sigterm()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\n"
        "except Stopped:\n    pass\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"  # passed over
        "asked = 'import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', asked]).returncode)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
