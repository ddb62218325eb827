"""A run's folder: its name, its log and results, and what --resume cuts."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from gfl.errors import InputError
from gfl.record.run_folder import cut_log, cut_results, open_run

NOON = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- names ----


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
    assert names_in(tmp_path) == []  # nor the one above it, which it made
    (tmp_path / "r50" / "earlier").mkdir(parents=True)
    with open_run(None, "r50", runs=tmp_path, now=NOON):
        pass
    assert names_in(tmp_path / "r50") == ["earlier"]
    kept = tmp_path / "mine"
    kept.mkdir()
    with open_run(kept, "r50"):
        pass
    assert kept.is_dir()  # it was there before


@pytest.mark.parametrize("checkpoint", ["last.pt", "best.pt"])
def test_a_workdir_with_a_run_needs_resume_or_another_name(checkpoint: str, tmp_path: Path) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        run.write_environment(["train"])
        run.write_text(checkpoint, "")
    said = "holds a run; give --resume or another --workdir"
    with pytest.raises(InputError, match=said), open_run(tmp_path / "w", "r50"):
        pass
    assert names_in(tmp_path / "w") == sorted([checkpoint, "env.json"])  # the refusal leaves no lock behind


def test_what_a_run_left_before_its_first_checkpoint_is_removed_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path / "w", "r50") as run:
        run.write_text("config.gin", "x = 1\n")
        run.write_environment(["train"])
        run.append([{"step": 1}])
        (run.path / ".last.pt.17.tmp").write_bytes(b"half")
        (run.path / ".notes").write_text("mine", encoding="utf-8")
    with open_run(tmp_path / "w", "r50"):
        pass
    assert names_in(tmp_path / "w") == [".notes"]
    said = "that ended before its first checkpoint: config.gin, env.json, log.jsonl\n"
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize("foreign", ["thesis.tex", "metrics.json"])
def test_what_a_run_left_stays_beside_other_files(foreign: str, tmp_path: Path) -> None:
    with open_run(tmp_path, "r50") as run:
        run.write_environment(["train"])
        run.write_text(foreign, "")
    with pytest.raises(InputError, match=rf"not empty \({foreign}\)"), open_run(tmp_path, "r50"):
        pass
    assert names_in(tmp_path) == sorted(["env.json", foreign])


def test_a_run_file_of_the_users_own_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text("LR = 0.1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"not empty \(config.gin\)"), open_run(tmp_path, "r50"):
        pass
    assert names_in(tmp_path) == ["config.gin"]


def test_a_workdir_with_other_files_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"not empty \(thesis.tex\)"), open_run(tmp_path, "r50"):
        pass


def test_a_workdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write .*w: File exists"), open_run(tmp_path / "w", "r50"):
        pass


def test_resume_needs_a_workdir_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without --workdir"), open_run(None, "r50", resume=True):
        pass
    with pytest.raises(InputError, match=r"has no last\.pt"), open_run(tmp_path / "none", "r50", resume=True):
        pass
    (tmp_path / "last.pt").write_bytes(b"")
    (tmp_path / ".best.pt.17.tmp").write_bytes(b"half")
    with open_run(tmp_path, "r50", resume=True):
        pass
    assert names_in(tmp_path) == ["last.pt"]  # what a killed run was writing is gone


# ---- lines ----


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


# ---- resume ----


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
