"""What infer writes: drawn videos, ids of annotations, and one sentence where memory, disk or folder fail."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from infer_program import detect, refused
from numpy.typing import NDArray
from tiny_export import NAMES, lying_exports

from gfl.errors import InputError
from gfl.runtime.model import Model
from gfl.runtime.result import Result
from infer import drawn_videos, journal, task
from infer.drawn_pictures import DrawnPictures
from infer.drawn_videos import DrawnVideos
from infer.input_digest import input_digest
from infer.rows import Selection, detections_of, rounded_boxes, selected
from infer.sources import Files, find_inputs

H, W = tiny.CANVAS
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lying_exports(tmp_path_factory)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "pictures"
    folder.mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"{i}.png"), RNG.integers(0, 256, (H, W, 3), dtype=np.uint8))
    return folder


def write_video(path: Path, frames: int = 4, fps: float = 12.0) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (W, H))
    for i in range(frames):
        writer.write(np.full((H, W, 3), 60 * i, np.uint8))
    writer.release()
    return path


def rows_of(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()[1:]]


# ---- videos ----


def opened_video(path: Path) -> tuple[float, list[NDArray[np.uint8]]]:
    """Frames a second, and the frames."""
    stream = cv2.VideoCapture(str(path))
    rate = stream.get(cv2.CAP_PROP_FPS)
    frames = []
    while (read := stream.read())[0]:
        frames.append(np.asarray(read[1], np.uint8))
    stream.release()
    return rate, frames


def test_a_drawn_video_has_the_frames_rate_and_size_of_its_own(exports: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi")
    flags = ("--model", exports, "--input", video, "--output", tmp_path / "output", "--format", "jsonl")
    assert detect(*flags, "--draw", "--score", 1) == 0  # nothing is drawn on it: the frames are the video's own
    assert [path.name for path in (tmp_path / "output" / "drawn").iterdir()] == ["clip.mp4"]
    rate, frames = opened_video(tmp_path / "output" / "drawn" / "clip.mp4")
    assert rate == pytest.approx(12.0)
    assert [frame.shape for frame in frames] == [(H, W, 3)] * 4
    assert [frame.mean() for frame in frames] == pytest.approx([0, 60, 120, 180], abs=5)
    assert [row["time_s"] for row in rows_of(tmp_path / "output")] == pytest.approx(
        [0, 1 / 12, 2 / 12, 3 / 12], abs=1e-3
    )


def test_each_video_of_a_folder_is_drawn(exports: Path, tmp_path: Path) -> None:
    for name, frames in (("a.avi", 2), ("b.avi", 3)):
        write_video(tmp_path / "in" / name, frames)
    flags = ("--model", exports, "--input", tmp_path / "in", "--output", tmp_path / "output", "--format", "jsonl")
    assert detect(*flags, "--draw") == 0
    drawn = sorted((tmp_path / "output" / "drawn").iterdir())
    assert [(path.name, len(opened_video(path)[1])) for path in drawn] == [("a.mp4", 2), ("b.mp4", 3)]
    assert [row["file"] for row in rows_of(tmp_path / "output")] == [
        *(f"a.avi#00000{i}" for i in (1, 2)),
        *(f"b.avi#00000{i}" for i in (1, 2, 3)),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_names_that_are_no_utf8_end_no_process(exports: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xe9")  # OpenCV itself would crash
    write_video(tmp_path / "a.avi").rename(tmp_path / f"{odd}.avi")
    shutil.copytree(exports, tmp_path / f"model{odd}")
    output = tmp_path / f"output{odd}"
    flags = ("--model", tmp_path / f"model{odd}", "--input", tmp_path / f"{odd}.avi", "--output", output, "--draw")
    assert detect(*flags) == 0
    assert [path.name for path in (output / "drawn").iterdir()] == [f"{odd}.mp4"]


def test_frames_that_no_header_counts_are_not_said_to_be_none(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "in" / "a.avi", 2)
    cv2.imwrite(str(tmp_path / "in" / "b.png"), np.zeros((H, W, 3), np.uint8))
    (tmp_path / "in" / "b.png").rename(tmp_path / "in" / "b.mp4")  # a picture as a video, of no stated length
    assert detect("--model", exports, "--input", tmp_path / "in", "--output", tmp_path / "output") == 0
    assert "input   frames, whose number is not stated" in capsys.readouterr().out


def test_a_drawn_video_that_was_cut_is_begun_again(exports: Path, tmp_path: Path) -> None:
    for name in ("a.avi", "b.avi"):
        write_video(tmp_path / "in" / name)
    flags = ("--model", exports, "--input", tmp_path / "in", "--format", "jsonl", "--draw")
    assert detect(*flags, "--output", tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    (tmp_path / "cut" / "drawn" / "b.mp4").rename(tmp_path / "cut" / "drawn" / ".gfl-b.mp4")
    lines = (tmp_path / "whole" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / "results.jsonl").write_bytes(b"".join(lines[:7]))  # two frames of the second video
    assert detect(*flags, "--output", tmp_path / "cut", "--resume") == 0
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["resumed"] == 4
    assert (tmp_path / "cut" / "results.jsonl").read_bytes() == b"".join(lines)
    assert sorted(path.name for path in (tmp_path / "cut" / "drawn").iterdir()) == ["a.mp4", "b.mp4"]
    assert len(opened_video(tmp_path / "cut" / "drawn" / "b.mp4")[1]) == 4


def test_a_video_that_fails_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(error: Exception | None) -> None:
        with DrawnVideos(tmp_path, {"a.avi": 0.0}, None) as videos:
            for i in (1, 2):
                videos.append(f"a.avi#00000{i}", np.zeros((H, W, 3), np.uint8))
            if error is not None:
                raise error

    with pytest.raises(KeyError):
        write(KeyError())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(drawn_videos, "frames_in", lambda path: 1)
    with pytest.raises(InputError, match="holds 1 of 2 frames; free some space"):
        write(None)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_resized(tmp_path: Path) -> None:
    with DrawnVideos(tmp_path, {"a.avi": 9.0}, None) as videos:
        videos.append("a.avi#000001", np.zeros((H, W, 3), np.uint8))
        videos.append("a.avi#000002", np.zeros((2 * H, W, 3), np.uint8))
    assert [frame.shape for frame in opened_video(tmp_path / "a.mp4")[1]] == [(H, W, 3)] * 2
    assert list(videos.notes) == ["a.avi: 1 frame of another size than the first, drawn in its size"]


# ---- annotations ----


def coco(path: Path, pictures: Path, categories: list[dict[str, object]]) -> Path:
    images = [{"id": 10 + i, "file_name": file.name} for i, file in enumerate(sorted(pictures.iterdir()))]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path


def test_category_ids_are_those_of_the_annotations(exports: Path, pictures: Path, tmp_path: Path) -> None:
    flags = ("--model", exports, "--input", pictures)
    assert detect(*flags, "--output", tmp_path / "own") == 0
    other_ids = {name: 70 - i for i, name in enumerate(NAMES)}  # another order
    file = coco(tmp_path / "coco.json", pictures, [{"id": key, "name": name} for name, key in other_ids.items()])
    assert detect(*flags, "--output", tmp_path / "theirs", "--annotations", file) == 0
    own, theirs = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("own", "theirs"))
    images = json.loads((tmp_path / "own" / "images.json").read_text())
    names = {category["id"]: category["name"] for category in images["categories"]}
    assert [other_ids[names[row["category_id"]]] for row in own] == [row["category_id"] for row in theirs]
    assert {row["image_id"] for row in theirs} <= {10, 11, 12, 13}


def test_classes_that_the_annotations_lack_are_named(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco(tmp_path / "coco.json", pictures, [{"id": 1, "name": "star"}, {"id": 2, "name": "round"}])
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output", "--annotations", file)
    assert "has round, which the model does not know" in refused(capsys, *flags)
    assert detect(*flags, "--class_map", "circle=round", "ring=round") == 0
    assert "2 of the model's 5 classes are not written" in capsys.readouterr().err
    rows = json.loads((tmp_path / "output" / "detections.json").read_text())
    assert {row["category_id"] for row in rows} == {1, 2}


def test_a_class_map_needs_annotations(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output", "--class_map", "a=b")
    assert "got --class_map without --annotations" in refused(capsys, *flags)


def test_edges_are_drawn_with_the_boxes_or_not_at_all(
    exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", exports, "--input", pictures, "--score", "0")
    assert "got --edges without --draw" in refused(capsys, *flags, "--output", tmp_path / "refused", "--edges")
    assert detect(*flags, "--output", tmp_path / "plain", "--draw") == 0
    assert detect(*flags, "--output", tmp_path / "edges", "--draw", "--edges") == 0
    drawn = [sorted((tmp_path / name / "drawn").iterdir()) for name in ("plain", "edges")]
    assert [path.name for path in drawn[0]] == [path.name for path in drawn[1]]
    assert any(one.read_bytes() != other.read_bytes() for one, other in zip(*drawn, strict=True))


# ---- numbers ----


@pytest.mark.parametrize("size", [(64, 96), (333, 1021)])
def test_rounded_boxes_stay_in_the_picture_and_near_the_true_ones(size: tuple[int, int]) -> None:
    corners = np.sort(RNG.random((500, 2, 2)), axis=1) * size[::-1]
    corners[:50, 1] = size[::-1]  # at the border
    corners[50:60, 1] = corners[50:60, 0]  # without an area
    boxes = corners.reshape(-1, 4).astype(np.float32)
    x, y, width, height = rounded_boxes(boxes).T
    assert (width >= 0).all()
    assert (x + width).max() <= size[1] + 1e-9
    assert (y + height).max() <= size[0] + 1e-9
    assert np.abs(np.stack([x, y, x + width, y + height], axis=1) - boxes).max() <= 0.0051


def result_of(scores: list[float], labels: list[int]) -> Result:
    count = len(scores)
    return Result(
        boxes_xyxy=np.tile(np.array([[1, 2, 3, 4]], np.float32), (count, 1)),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int32),
        names=tuple("abc"[label] for label in labels),
        category_ids=tuple(labels),
        edge_std=np.ones((count, 4), np.float32),
        score_thresholds=np.full(count, 0.3, np.float32),
        complete=True,
        size_hw=(9, 9),
        source="a.png",
    )


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection((7, 8, 9)), [(7, 0.9), (9, 0.5), (8, 0.123457)]),
        (Selection((7, None, 9)), [(7, 0.9), (9, 0.5)]),
        (Selection((7, 8, 9), min_score=0.5), [(7, 0.9), (9, 0.5)]),
        (Selection((7, 8, 9), top=1), [(7, 0.9)]),
        (Selection((None, None, 9), top=1), [(9, 0.5)]),
        (Selection((7, 8, 9), min_score=1.0), []),
    ],
)
def test_what_is_written_of_a_result(selection: Selection, expected: list[tuple[int, float]]) -> None:
    rows = detections_of(selected(result_of([0.9, 0.5, 0.123457], [0, 2, 1]), selection), selection.category_ids)
    assert [(row["category_id"], row["score"]) for row in rows] == [(key, round(score, 5)) for key, score in expected]
    assert all(row["bbox"] == [1, 2, 2, 2] for row in rows)
    assert detections_of(selected(result_of([], []), selection), selection.category_ids) == []


def test_what_is_drawn_is_what_is_written(exports: Path, pictures: Path, tmp_path: Path) -> None:
    usual = ("--model", exports, "--input", pictures, "--draw", "--score", 0)
    for name, flags in (("all", ()), ("top", ("--top", 1)), ("least", ("--min_score", 1))):
        assert detect(*usual, "--output", tmp_path / name, *flags) == 0
    drawn = {name: next((tmp_path / name / "drawn").iterdir()).read_bytes() for name in ("all", "top", "least")}
    assert len(set(drawn.values())) == 3


def test_large_pictures_that_are_gone_before_they_are_drawn_are_named(tmp_path: Path) -> None:
    for name, side in (("a.png", 9), ("b.png", 9), ("c.png", 9)):
        cv2.imwrite(str(tmp_path / name), np.zeros((side, side, 3), np.uint8))
    inputs = find_inputs(str(tmp_path))
    assert isinstance(inputs, Files)
    drawn = DrawnPictures(tmp_path, inputs, None)
    (tmp_path / "b.png").unlink()
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((7, 7, 3), np.uint8))
    for position in range(3):
        drawn.draw(position, result_of([0.9], [0]))  # it keeps no picture
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["a.jpg"]
    assert list(drawn.notes) == [
        "2 pictures not drawn, gone or replaced since the detection, or too large to be held (b.png, c.png)"
    ]


def test_input_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(bytes(1_000_000))
    before = input_digest([("a.bmp", path)])
    assert input_digest([("a.bmp", path)]) == before
    for content in (bytes(1_000_001), bytes(999_999) + b"1", b"1" + bytes(999_999)):
        path.write_bytes(content)
        assert input_digest([("a.bmp", path)]) != before
    path.write_bytes(bytes(1_000_000))
    assert input_digest([("b.bmp", path)]) != before
    assert input_digest([("a.bmp", tmp_path / "gone")]) == input_digest([("a.bmp", None)]) != before
    assert input_digest([]) != before


# ---- what fails ----


def with_run(model: Model, fail: Callable[[int], object]) -> Model:
    """The model, with something done before each run."""
    runs = 0

    def run_batch(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> dict[str, NDArray[np.generic]]:
        nonlocal runs
        runs += 1
        fail(runs)
        return model.run(images, image_sizes)

    return replace(model, run=run_batch)


def failing(monkeypatch: pytest.MonkeyPatch, fail: Callable[[int], object]) -> None:
    opened = task.open_model
    monkeypatch.setattr(task, "open_model", lambda *args, **flags: with_run(opened(*args, **flags), fail))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code: std::bad_alloc"),
        RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    ids=["python", "cpu", "arena", "torch"],
)
def test_too_little_memory_is_one_sentence(
    error: Exception, exports: Path, pictures: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(runs: int) -> None:
        if runs == 2:
            raise error

    failing(monkeypatch, fail)
    said = refused(capsys, "--model", exports, "--input", pictures, "--output", tmp_path / "output")
    assert "the memory does not suffice to run the model" in said
    assert not (tmp_path / "output").exists()


def test_folder_that_is_removed_meanwhile_is_told(
    exports: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, lambda runs: shutil.rmtree(tmp_path / "output") if runs == 2 else None)
    said = refused(capsys, "--model", exports, "--input", pictures, "--output", tmp_path / "output")
    assert "results.jsonl was removed while results were written to it" in said
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_full_disk_is_told_and_what_was_streamed_stays(
    name: str, exports: Path, pictures: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    add = journal.Journal.add

    def full(self: journal.Journal, line: bytes) -> None:
        if b'"2.png"' in line:
            with open(self.path, "ab") as file:
                file.write(line[:20])
            error = OSError(errno.ENOSPC, "No space left on device")
            with journal.write_errors(self.path):
                raise error
        add(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(journal.Journal, "add", full)
        flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output", "--format", name)
        said = refused(capsys, *flags) if name == "json" else None
        if said is None:
            assert detect(*flags) == 2
            said = capsys.readouterr().err
            assert "results.jsonl holds the first 2 of 4; go on with --resume" in said
    assert "No space left on device; free some space" in said
    assert (tmp_path / "output").exists() == (name == "jsonl")
    assert detect(*flags, "--resume") == 0


def test_complete_results_stay_where_their_format_cannot_be_made(
    exports: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(*arguments: object) -> list[str]:
        raise InputError("cannot write detections.json: No space left on device")

    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output")
    with monkeypatch.context() as patched:
        patched.setattr(task, "write_results", no_space)
        assert detect(*flags) == 2
    assert "results.jsonl holds the first 4 of 4; go on with --resume" in capsys.readouterr().err
    assert detect(*flags, "--resume") == 0
    assert json.loads((tmp_path / "output" / "summary.json").read_text())["images"] == 4
    assert not (tmp_path / "output" / "results.jsonl").exists()


@pytest.mark.parametrize("name", ["results.jsonl", "gone"])
def test_links_and_files_of_others_are_not_written_to(
    name: str, exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path)
    (tmp_path / "results.jsonl").write_text("mine")
    assert "already holds results.jsonl" in refused(capsys, *flags)
    assert "begins with no line of infer" in refused(capsys, *flags, "--resume")
    (tmp_path / "results.jsonl").rename(tmp_path / "mine")
    (tmp_path / "results.jsonl").symlink_to(tmp_path / ("mine" if name != "gone" else name))
    refused(capsys, *flags)
    assert "symbolic links" in refused(capsys, *flags, "--resume")
    assert (tmp_path / "mine").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "results.jsonl"]
