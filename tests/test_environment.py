"""What env.json says of a run, and what it keeps to itself."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gfl.record.environment import environment, git_commit
from gfl.record.run_folder import open_run


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


def test_the_environment_of_a_run_is_that_of_its_beginning_and_says_what_each_resumption_changed(
    tmp_path: Path,
) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        run.write_environment(["train", "--gin_file", "r50.gin"], {"device": "cpu", "precision_reason": "AMX"})
        begun = json.loads((run.path / "env.json").read_text(encoding="utf-8"))
        run.write_environment(["train", "--resume"], {"device": "cuda"}, resumed_at=7)
        run.write_environment(["train", "--resume"], {"device": "cpu"}, resumed_at=7)
        run.write_environment(["train", "--resume"], {"device": "npu", "precision_reason": "as before"}, resumed_at=9)
        content = json.loads((run.path / "env.json").read_text(encoding="utf-8"))
    resumed = content.pop("resumed")
    assert content == begun
    assert [each["step"] for each in resumed] == [7, 9]  # of the first one no step was saved
    assert resumed[0].keys() <= {"step", "command", "started"}
    assert (resumed[1]["command"], resumed[1]["device"]) == (["train", "--resume"], "npu")


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
