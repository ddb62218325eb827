"""infer's formats and --resume: each says the same, and a killed run that is gone on with ends as one never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from infer_program import detect, refused
from tiny_export import lying_exports

from infer import merge, task
from infer.journal import parse
from infer.rows import encode

ROOT = Path(__file__).resolve().parents[1]
H, W = tiny.CANVAS
PICTURES = 40
TIMINGS = {"seconds", "img_per_s", "first_result_s", "p50_ms", "p95_ms", "share", "canvases", "resumed", "provider"}
UNLIKE = {*TIMINGS, "nodes_by_provider", "notes"}  # in summary.json, of a run that was resumed


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lying_exports(tmp_path_factory)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty of noise, three of them damaged."""
    folder = tmp_path_factory.mktemp("input") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        cv2.imwrite(str(folder / f"{i:02}.png"), rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
    for name in ("03.png", "17.png", "31.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
    return folder


def content(folder: Path) -> dict[str, object]:
    """What a folder holds, file by file; of summary.json what does not depend on time."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "summary.json":
            summary = json.loads(path.read_text())
            found[path.name] = {key: value for key, value in summary.items() if key not in UNLIKE}
        elif path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(exports: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of each format, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("json", "jsonl"):
        assert detect("--model", exports, "--input", pictures, "--output", folder / name, "--format", name) == 0
    return folder


# ---- what the formats say ----


def test_every_picture_has_a_line_in_the_order_of_the_input(whole: Path, pictures: Path) -> None:
    head, *rows = lines_of(whole / "jsonl" / "results.jsonl")
    assert [row["file"] for row in rows] == sorted(path.name for path in pictures.iterdir())
    assert [row["id"] for row in rows] == list(range(1, PICTURES + 1))
    failed = [row for row in rows if row["failure"]]
    assert [row["file"] for row in failed] == ["03.png", "17.png", "31.png"]
    assert all(
        (row["width"], row["complete"], row["count"], row["detections"]) == (None, None, 0, []) for row in failed
    )
    assert all((row["width"], row["height"]) == (W, H) for row in rows if not row["failure"])
    assert [category["name"] for category in head["categories"]] == ["circle", "square", "triangle", "star", "ring"]  # type: ignore[attr-defined]


def test_json_says_what_jsonl_says(whole: Path) -> None:
    head, *rows = lines_of(whole / "jsonl" / "results.jsonl")
    images = json.loads((whole / "json" / "images.json").read_text())
    assert images["images"] == [{key: value for key, value in row.items() if key != "detections"} for row in rows]
    assert images["categories"] == head["categories"]
    detections = json.loads((whole / "json" / "detections.json").read_text())
    assert detections == [
        {"image_id": row["id"], **detection, "file_name": row["file"]}
        for row in rows
        for detection in row["detections"]  # type: ignore[attr-defined]
    ]
    assert not (whole / "json" / "results.jsonl").exists()


def test_floats_have_the_digits_that_they_need(whole: Path) -> None:
    text = (whole / "json" / "detections.json").read_text()
    rows = json.loads(text)
    for row in rows:
        assert all(value == round(value, 2) for value in row["bbox"])
        assert row["score"] == round(row["score"], 5)
    assert len(text) / len(rows) < 130  # bytes


def test_least_score_and_most_detections(whole: Path, exports: Path, pictures: Path, tmp_path: Path) -> None:
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output")
    assert detect(*flags, "--min_score", 0.15, "--top", 2) == 0
    images = json.loads((whole / "json" / "images.json").read_text())["images"]
    expected = []
    detections = json.loads((whole / "json" / "detections.json").read_text())
    for image in images:
        rows = [row for row in detections if row["image_id"] == image["id"] and row["score"] >= 0.15]
        expected += rows[:2]
    assert json.loads((tmp_path / "output" / "detections.json").read_text()) == expected
    assert 0 < len(expected) < len(detections)


def test_parquet_says_what_jsonl_says(whole: Path, exports: Path, pictures: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output", "--format", "parquet")
    assert detect(*flags) == 0
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["results-00001.parquet", "summary.json"]
    file = parquet.ParquetFile(tmp_path / "output" / "results-00001.parquet")
    head, *rows = lines_of(whole / "jsonl" / "results.jsonl")
    table = file.read()
    assert table.schema.field("width").metadata == {b"unit": b"px of the original picture"}
    assert json.loads(table.schema.metadata[b"gfl"])["categories"] == head["categories"]
    for row, expected in zip(table.to_pylist(), rows, strict=True):
        assert {key: row[key] for key in ("id", "file", "width", "count", "failure")} == {
            key: expected[key] for key in ("id", "file", "width", "count", "failure")
        }
        for found, wanted in zip(row["detections"], expected["detections"], strict=True):  # type: ignore[call-overload]
            assert found["bbox"] == pytest.approx(wanted["bbox"], abs=1e-4)


@pytest.mark.parametrize("name", ["json", "jsonl", "parquet"])
def test_merged_shards_are_the_run_never_sharded(
    name: str, whole: Path, exports: Path, pictures: Path, tmp_path: Path
) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    flags = ("--model", exports, "--input", pictures, "--format", name)
    for i in (1, 2):
        assert detect(*flags, "--output", tmp_path / "shards", "--shard", f"{i}/2") == 0
    assert merge.main(["--input", str(tmp_path / "shards"), "--output", str(tmp_path / "merged")]) == 0
    if name == "parquet":
        assert detect(*flags, "--output", tmp_path / "whole") == 0
    expected = content(tmp_path / "whole" if name == "parquet" else whole / name)
    merged = content(tmp_path / "merged")
    summary, wanted = merged.pop("summary.json"), expected.pop("summary.json")
    assert merged.keys() == expected.keys()
    if name != "parquet":  # its bytes depend on the version of pyarrow only: a file is as it was written
        assert merged == expected
    for key in ("images", "failed", "detections", "detections_of_score", "incomplete", "pictures", "input_sha256"):
        assert summary[key] == wanted[key]  # type: ignore[index]


def test_shard_of_pictures_of_the_same_names_is_refused(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path / "other")
    (tmp_path / "other" / "00.png").write_bytes((pictures / "01.png").read_bytes())
    for i, folder in enumerate((pictures, tmp_path / "other"), start=1):
        assert detect("--model", exports, "--input", folder, "--output", tmp_path / "shards", "--shard", f"{i}/2") == 0
    said = tiny.refusal(merge.main, ["--input", str(tmp_path / "shards"), "--output", str(tmp_path / "m")], capsys)
    assert "shard-2-of-2 is of other pictures than" in said


def test_shard_under_another_ones_name_is_refused(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect("--model", exports, "--input", pictures, "--output", tmp_path / "shards", "--shard", "1/2") == 0
    shutil.copytree(tmp_path / "shards" / "shard-1-of-2", tmp_path / "shards" / "shard-2-of-2")
    said = tiny.refusal(merge.main, ["--input", str(tmp_path / "shards"), "--output", str(tmp_path / "m")], capsys)
    assert "shard-2-of-2 holds the results of another shard than its name says" in said


@pytest.mark.parametrize("edit", [{"seconds": "long"}, {"shrunk": None}, {"detections_of_score": 3}])
def test_edited_summary_is_one_sentence(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: dict[str, object]
) -> None:
    flags = ("--model", exports, "--input", f"{pictures}/00.png", "--shard", "1/1", "--output", tmp_path / "shards")
    assert detect(*flags) == 0
    path = tmp_path / "shards" / "shard-1-of-1" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    said = tiny.refusal(merge.main, ["--input", str(tmp_path / "shards"), "--output", str(tmp_path / "m")], capsys)
    assert "holds values that are not infer's" in said


def test_results_of_another_run_than_the_summarys_are_refused(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("--model", exports, "--input", f"{pictures}/0*.png", "--format", "jsonl", "--shard", "1/1")
    for name, top in (("shards", 1), ("other", 2)):
        assert detect(*usual, "--output", tmp_path / name, "--top", top) == 0
    shutil.copy(tmp_path / "other" / "shard-1-of-1" / "results.jsonl", tmp_path / "shards" / "shard-1-of-1")
    said = tiny.refusal(merge.main, ["--input", str(tmp_path / "shards"), "--output", str(tmp_path / "m")], capsys)
    assert "shard-1-of-1 holds results of another --top than its summary.json says" in said


# ---- going on ----


def kill_when(path: Path, lines: int, command: Sequence[str], number: int) -> int:
    """Start a program and send it a signal when a file has so many lines; its exit code."""
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not path.exists() or path.read_bytes().count(b"\n") < lines:
            assert program.poll() is None
            time.sleep(0.002)
        program.send_signal(number)
        return program.wait(timeout=60)
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("name", ["json", "jsonl", "parquet"])
def test_killed_run_that_is_resumed_equals_one_never_stopped(
    name: str, whole: Path, exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow")
    output = tmp_path / "output"
    flags = ["--model", str(exports), "--input", str(pictures), "--output", str(output), "--format", name]
    command = [sys.executable, "-m", "infer.run", *flags, "--threads", "1"]
    assert kill_when(output / "results.jsonl", 8, command, signal.SIGKILL) == -signal.SIGKILL
    if name != "json":
        assert "of a run that did not end" in refused(capsys, *flags)
    with open(output / "results.jsonl", "ab") as journal:
        journal.write(b'{"id": 20, "file": "torn')
    assert detect(*flags, "--resume") == 0
    summary = json.loads((output / "summary.json").read_text())
    assert 7 <= summary["resumed"] < PICTURES
    if name == "parquet":
        assert detect(*flags[:-4], "--output", tmp_path / "other", "--format", name) == 0
    expected = content(tmp_path / "other" if name == "parquet" else whole / name)
    assert content(output) == expected
    assert detect(*flags, "--resume") == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert content(output) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stopped_stream_stays_and_says_so_by_its_exit_code(
    number: int, exports: Path, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    command = [
        sys.executable,
        "-m",
        "infer.run",
        "--model",
        str(exports),
        "--input",
        str(pictures),
        "--format",
        "jsonl",
    ]
    assert kill_when(output / "results.jsonl", 3, [*command, "--output", str(output)], number) == 128 + number
    assert [path.name for path in output.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--min_score", 0.2), "is of another --min_score than this run"),
        (("--top", 3), "is of another --top than"),
        (("--score", 0.5), "is of another --score than"),
        (("--draw",), "is of another choice of --draw than"),
    ],
)
def test_other_flags_are_not_gone_on_with(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    flags: tuple[object, ...], said: str,
) -> None:  # fmt: skip
    usual = ("--model", exports, "--input", pictures, "--format", "jsonl", "--resume")
    assert said in refused(capsys, *usual, "--output", whole / "jsonl", *flags)
    lines = (whole / "jsonl" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:5]))
    assert said in refused(capsys, *usual, "--output", tmp_path, *flags)
    assert (tmp_path / "results.jsonl").read_bytes() == b"".join(lines[:5])


def test_next_run_takes_up_what_a_killed_one_left(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (whole / "jsonl" / "results.jsonl").read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b'"format": "jsonl"', b'"format": "json"')
    usual = ("--model", exports, "--input", pictures)
    for name, left in (("torn", lines[0][:10]), ("begun", b"".join(lines[:9]) + lines[9][:20])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_bytes(left)
        (tmp_path / name / ".detections.json.0123456789abcdef.tmp").write_bytes(b"[")
        if name == "begun":
            assert "is of another --top than" in refused(capsys, *usual, "--output", tmp_path / name, "--top", 1)
        assert detect(*usual, "--output", tmp_path / name) == 0
        assert content(tmp_path / name) == content(whole / "json")
    assert json.loads((tmp_path / "begun" / "summary.json").read_text())["resumed"] == 8


def test_what_a_killed_run_left_survives_a_stop_of_the_next(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (whole / "jsonl" / "results.jsonl").read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b'"format": "jsonl"', b'"format": "json"')
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:9]))

    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "run_pictures", stop)
    assert detect("--model", exports, "--input", pictures, "--output", tmp_path) == 130
    assert (tmp_path / "results.jsonl").read_bytes() == b"".join(lines[:9])


def test_run_that_was_killed_after_its_last_file_is_whole(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "json", tmp_path / "output")
    shutil.copy(whole / "jsonl" / "results.jsonl", tmp_path / "output")
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output", "--resume")
    assert detect(*flags) == 0
    assert content(tmp_path / "output") == content(whole / "json")


def test_whole_run_whose_results_are_gone_is_not_whole(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("--model", exports, "--input", pictures, "--resume", "--output", tmp_path / "output")
    for name, lost in (("json", "images.json"), ("jsonl", "results.jsonl")):
        shutil.copytree(whole / name, tmp_path / "output")
        (tmp_path / "output" / lost).unlink()
        assert f"summary.json of a whole run without {lost}" in refused(capsys, *usual, "--format", name)
        shutil.rmtree(tmp_path / "output")


@pytest.mark.parametrize(
    "edit",
    [
        {"width": None},
        {"height": "7"},
        {"id": None},
        {"count": 1000},
        {"failure": 5},
        {"detections": None},
        {"detections": [{"category_id": 99, "bbox": [0, 0, 1, 1], "score": 0.5}], "count": 1},
        {"detections": [{"category_id": 1, "bbox": "0", "score": 0.5}], "count": 1},
        {"detections": [{"category_id": 1, "bbox": [0, 0, 1, 1], "score": "high"}], "count": 1},
    ],
)
def test_lines_that_somebody_edited_are_done_again(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, edit: dict[str, object]
) -> None:
    expected = (whole / "jsonl" / "results.jsonl").read_bytes()
    lines = expected.splitlines(keepends=True)
    lines[38] = json.dumps({**json.loads(lines[38]), **edit}).encode() + b"\n"
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines))
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path, "--format", "jsonl", "--resume")
    assert detect(*flags) == 0
    assert (tmp_path / "results.jsonl").read_bytes() == expected
    assert json.loads((tmp_path / "summary.json").read_text())["resumed"] == 37


def test_a_line_of_endless_brackets_is_torn(tmp_path: Path) -> None:
    assert parse(b"[" * 200_000 + b"\n") is None


def test_pictures_whose_drawing_is_gone_are_done_again(exports: Path, pictures: Path, tmp_path: Path) -> None:
    flags = ("--model", exports, "--input", f"{pictures}/0*.png", "--format", "jsonl", "--draw")
    assert detect(*flags, "--output", tmp_path / "output") == 0
    expected = content(tmp_path / "output")
    (tmp_path / "output" / "summary.json").unlink()
    for name in ("06", "08"):
        (tmp_path / "output" / "drawn" / f"{name}.jpg").unlink()
    assert detect(*flags, "--output", tmp_path / "output", "--resume") == 0
    assert content(tmp_path / "output") == expected
    assert json.loads((tmp_path / "output" / "summary.json").read_text())["resumed"] == 6


def test_other_pictures_are_not_gone_on_with(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path / "other")
    (tmp_path / "other" / "39.png").unlink()
    usual = ("--model", exports, "--format", "jsonl", "--resume", "--output", whole / "jsonl")
    assert "is of other pictures than" in refused(capsys, *usual, "--input", tmp_path / "other")


def test_two_runs_into_one_folder(
    exports: Path, pictures: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")
    lines = (whole / "jsonl" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:5]))
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path, "--format", "jsonl", "--resume")
    with open(tmp_path / "results.jsonl", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "is being written by another run" in refused(capsys, *flags)
        assert "is being written by another run" in refused(capsys, *flags[:-1])
    assert (tmp_path / "results.jsonl").read_bytes() == b"".join(lines[:5])


def test_names_that_are_not_unicode_survive() -> None:
    line = encode({"file": os.fsdecode(b"a\xff.png")})
    assert json.loads(line)["file"] == os.fsdecode(b"a\xff.png")
