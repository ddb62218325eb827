"""A run's folder: names, lock, whole files, lines, and what --resume cuts."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gfl import files
from gfl.errors import InputError
from gfl.files import atomic_file, to_json, write_atomic
from gfl.record import lock
from gfl.record.environment import environment, git_commit
from gfl.record.run_folder import cut_log, cut_results, open_run

NOON = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def other_process() -> Iterator[int]:
    """The pid of another process that lives as long as the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def owner(pid: int, host: str | None = None) -> str:
    return f"{pid} {host or socket.gethostname()} {lock._process_start(pid)}"


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_run_without_workdir_never_takes_the_name_of_another(tmp_path: Path) -> None:
    paths = []
    for _ in range(3):
        with open_run(None, "r50", runs=tmp_path, now=NOON) as run:
            run.write_text("config.gin", "")
            paths.append(run.path)
    parent = tmp_path / "r50"
    stem = "2026-03-04_12-00-00"
    assert paths == [parent / stem, parent / f"{stem}-2", parent / f"{stem}-3"]


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with open_run(None, "r50", runs=tmp_path, now=NOON):
        pass
    assert names_in(tmp_path / "r50") == []
    kept = tmp_path / "mine"
    kept.mkdir()
    with open_run(kept, "r50"):
        pass
    assert kept.is_dir()  # it was there before


def test_a_workdir_with_a_run_needs_resume_or_another_name(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        run.write_text("config.gin", "x = 1\n")
    with pytest.raises(InputError, match="holds a run; give --resume or another --workdir"):
        open_run(tmp_path / "w", "r50")
    assert names_in(tmp_path / "w") == ["config.gin"]  # the refusal leaves no lock behind


def test_a_workdir_with_other_files_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"not empty \(thesis.tex\)"):
        open_run(tmp_path, "r50")


def test_a_workdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write .*w: File exists"):
        open_run(tmp_path / "w", "r50")


def test_resume_needs_a_workdir_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without --workdir"):
        open_run(None, "r50", resume=True)
    with pytest.raises(InputError, match=r"has no last\.pt"):
        open_run(tmp_path / "none", "r50", resume=True)
    (tmp_path / "last.pt").write_bytes(b"")
    (tmp_path / ".best.pt.17.tmp").write_bytes(b"half")
    with open_run(tmp_path, "r50", resume=True) as run:
        assert run.resumed
    assert names_in(tmp_path) == ["last.pt"]  # what a killed run was writing is gone


# ---- the lock --------------------------------------------------------------------------------------------------------


def test_a_workdir_in_use_is_refused_with_the_pid_even_to_the_same_process(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        (run.path / "last.pt").write_bytes(b"")
        for resume in (False, True):
            with pytest.raises(InputError, match=f"in use by process {os.getpid()} "):
                open_run(tmp_path / "w", "r50", resume=resume)
    with open_run(tmp_path / "w", "r50", resume=True):  # free again
        pass


def test_a_workdir_of_another_living_process_is_refused(tmp_path: Path, other_process: int) -> None:
    (tmp_path / ".lock").write_text(owner(other_process), encoding="utf-8")
    with pytest.raises(InputError, match=f"in use by process {other_process} "):
        open_run(tmp_path, "r50")
    assert (tmp_path / ".lock").read_text(encoding="utf-8") == owner(other_process)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, dead_pid: int) -> None:
    (tmp_path / ".lock").write_text(owner(dead_pid), encoding="utf-8")
    with open_run(tmp_path, "r50"):
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == owner(os.getpid())
        assert names_in(tmp_path) == [".lock"]
    assert names_in(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times come from /proc")
def test_a_lock_whose_pid_is_used_again_is_taken_over(tmp_path: Path, other_process: int) -> None:
    # As after a container's restart: the same pid, another process.
    (tmp_path / ".lock").write_text(f"{other_process} {socket.gethostname()} boot/1", encoding="utf-8")
    with open_run(tmp_path, "r50"):
        pass


@pytest.mark.parametrize("content", ["123 another-host -", "", "rubbish"])
def test_a_lock_that_cannot_be_judged_is_trusted_and_the_way_out_told(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"delete .*lock"):
        open_run(tmp_path, "r50")


def test_a_lock_taken_by_another_meanwhile_is_not_removed(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        (run.path / ".lock").write_text("1 another-host -", encoding="utf-8")
    assert names_in(run.path) == [".lock"]


# ---- whole files -----------------------------------------------------------------------------------------------------


def test_a_whole_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    write_atomic(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"
    assert names_in(tmp_path) == ["a.json"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def stop_halfway() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert path.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("number", "mend"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "may write"), (errno.EIO, "check the path")]
)
def test_a_full_disk_is_an_input_error_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mend: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match=rf"cannot write .*metrics\.json: {os.strerror(number)}; .*{mend}"):
        write_atomic(tmp_path / "metrics.json", "{}")
    assert names_in(tmp_path) == []


def test_a_full_disk_that_a_library_hides_in_a_runtime_error_is_an_input_error(tmp_path: Path) -> None:
    def save_as_torch_does() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(InputError, match="No space left"), atomic_file(tmp_path / "last.pt"):
        save_as_torch_does()
    with pytest.raises(RuntimeError, match="a bug"), atomic_file(tmp_path / "last.pt"):
        raise RuntimeError("a bug")
    assert names_in(tmp_path) == []


def test_a_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*none"):
        write_atomic(tmp_path / "none" / "a.json", "{}")


def test_json_has_no_nan_and_takes_numpy_and_paths() -> None:
    value = {"a": math.nan, "b": [np.float32("inf"), np.int64(3)], "c": np.array([1.5, math.nan]), "d": Path("x")}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, 3], "c": [1.5, None], "d": "x"}
    assert json.loads(to_json({"a": np.float32(0.5), "b": (1, True), "c": "猫"})) == {
        "a": 0.5,
        "b": [1, True],
        "c": "猫",
    }
    with pytest.raises(TypeError, match="set has no JSON form"):
        to_json({"a": {1}})


def test_names_that_are_no_unicode_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    write_atomic(tmp_path / "a.json", to_json({"file": name}))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": name}


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_the_log_is_a_json_line_a_step_with_null_for_nan(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        run.append([{"step": 1, "loss": 0.5}, {"step": 2, "loss": math.nan}])
        run.append([])
        run.append([{"step": 2, "AP": 0.1}])
    assert lines_of(run.path / "log.jsonl") == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None},
        {"step": 2, "AP": 0.1},
    ]


def test_the_results_have_one_header_and_a_row_an_evaluation(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        run.append_result({"step": 10, "AP": 0.25})
        run.append_result({"AP": math.nan, "step": 20})
        with pytest.raises(ValueError, match=r"expected .*'step', 'AP'"):
            run.append_result({"step": 30, "AR": 0.1})
    assert (run.path / "results.csv").read_text(encoding="utf-8") == "step,AP\n10,0.25\n20,\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot write /dev/full: No space left on device"):
        files.append_text(Path("/dev/full"), "{}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are of Unix")
def test_a_line_that_does_not_fit_leaves_no_half_line(tmp_path: Path) -> None:
    program = (
        "import resource, signal; from pathlib import Path\n"
        "from gfl.engine import files; from gfl.errors import InputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))\n"
        "files.append_text(Path('log'), 'first line of 21 byte\\n')\n"
        "try: files.append_text(Path('log'), 'this one does not fit\\n')\n"
        "except InputError as error: print(error)\n"
    )
    root = Path(files.__file__).resolve().parents[1]
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write log: File too large" in shown.stdout
    assert (tmp_path / "log").read_text(encoding="utf-8") == "first line of 21 byte\n"


# ---- resume ----------------------------------------------------------------------------------------------------------


def test_cutting_the_log_keeps_the_lines_up_to_the_step_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    kept = '{"step": 1, "note": "\u2028"}\n{"step":2}\n{"step": 2, "AP": 0.1}\n'  # U+2028 is no end of a line
    path.write_bytes((kept + '{"step": 3}\n{"step": 4}\n').encode())
    assert cut_log(path, 2) == 2
    assert path.read_bytes() == kept.encode()
    assert cut_log(path, 2) == 0
    assert cut_log(path, 0) == 3
    assert names_in(tmp_path) == ["log.jsonl"]


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 2}', "\0\0\0", '{"step"\n', "\xff\xfe"])
def test_cutting_drops_a_last_line_that_a_kill_left_unfinished(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + tail.encode("latin-1"))
    assert cut_log(path, 5) == 1
    assert path.read_bytes() == b'{"step": 1}\n'


def test_cutting_tells_a_broken_line_in_the_middle_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2 of .*log\.jsonl is broken"):
        cut_log(path, 1)
    assert path.read_text(encoding="utf-8").count("\n") == 3


def test_cutting_files_that_are_not_there_is_nothing(tmp_path: Path) -> None:
    assert cut_log(tmp_path / "log.jsonl", 1) == 0
    assert cut_results(tmp_path / "results.csv", 1) == 0
    assert names_in(tmp_path) == []


def test_cutting_the_results_keeps_the_header_and_finds_the_step_column(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("AP,step\n0.1,10\n0.2,20\n0.3,3", encoding="utf-8")
    assert cut_results(path, 10) == 2
    assert path.read_text(encoding="utf-8") == "AP,step\n0.1,10\n"
    path.write_text("AP\n0.1\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column `step`"):
        cut_results(path, 10)


def test_a_resumed_folder_goes_on_with_its_lines(tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        (run.path / "last.pt").write_bytes(b"")
        run.append([{"step": step} for step in (1, 2, 3)])
        run.append_result({"step": 2, "AP": 0.1})
        run.append_result({"step": 3, "AP": 0.2})
    with open_run(tmp_path / "w", "r50", resume=True) as run:
        run.cut(2)
        run.append([{"step": 3, "again": True}])
        run.append_result({"step": 3, "AP": 0.2})
    assert lines_of(run.path / "log.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    assert (run.path / "results.csv").read_text(encoding="utf-8") == "step,AP\n2,0.1\n3,0.2\n"


# ---- env.json --------------------------------------------------------------------------------------------------------


def test_the_environment_names_command_versions_and_platform_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "hush")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with open_run(tmp_path / "w", "r50") as run:
        run.write_environment(["gfl.train", "--gin_file", "r50.gin"], {"device": "cpu"})
        run.write_json("metrics.json", {"AP": math.nan})
    text = (run.path / "env.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content["command"] == ["gfl.train", "--gin_file", "r50.gin"]
    assert content["packages"]["numpy"] == np.__version__
    assert content["python"] == sys.version.split()[0]
    assert content["device"] == "cpu"
    assert content["variables"]["OMP_NUM_THREADS"] == "1"
    assert "hush" not in text
    assert json.loads((run.path / "metrics.json").read_text(encoding="utf-8")) == {"AP": None}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_checkout_itself_and_says_when_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    assert git_commit(tmp_path) is None  # nothing committed yet
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "-m", "one")
    commit = git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert git_commit(tmp_path) == f"{commit}+changes"
    (tmp_path / "inside").mkdir()
    assert git_commit(tmp_path / "inside") is None  # a package installed inside somebody else's checkout


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment([])["git"] is None
