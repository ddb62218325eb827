"""Objects followed through a video: what is written and drawn, and how a run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from infer_program import detect, refused
from tiny_onnx import write_onnx

from gfl.runtime.result import Result
from infer import tracking
from infer.formats import read_results
from infer.rows import detections_of, is_detection
from infer.tracking import TrackedFrames, Tracks

NAMES = ("a", "b")


def frame_of(number: int, boxes: list[tuple[int, float, float]], video: str = "v.avi") -> Result:
    """A frame with boxes of 20 x 20 px: class, left, top."""
    labels = np.array([label for label, *_ in boxes], np.int32)
    corners = np.array([[left, top, left + 20, top + 20] for _, left, top in boxes], np.float32).reshape(-1, 4)
    return Result(
        boxes_xyxy=corners,
        scores=np.full(len(boxes), 0.8, np.float32),
        labels=labels,
        names=tuple(NAMES[label] for label in labels),
        category_ids=tuple(int(label) + 1 for label in labels),
        edge_std=np.ones((len(boxes), 4), np.float32),
        score_thresholds=np.full(len(boxes), 0.3, np.float32),
        complete=True,
        size_hw=(200, 300),
        source=f"{video}#{number:06d}",
        image=np.zeros((200, 300, 3), np.uint8),
    )


class StandIn:
    """A tracker that gives every detection its place as its track, in turned order, and none in its first frame."""

    def __init__(self, **options: float) -> None:
        self.options, self.frames = options, 0

    def update(self, found: SimpleNamespace) -> SimpleNamespace:
        self.frames += 1
        places = found.data["place"][::-1]
        return SimpleNamespace(
            data={"place": places}, tracker_id=np.arange(len(places))[::-1] if self.frames > 1 else places * 0 - 1
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = SimpleNamespace(ByteTrackTracker=StandIn), SimpleNamespace(Detections=SimpleNamespace)
    monkeypatch.setattr(tracking, "import_trackers", lambda: packages)


@pytest.mark.usefixtures("stand_in")
def test_tracks_are_numbered_over_all_classes_and_anew_in_each_video() -> None:
    tracks = Tracks({"v.avi": 25.0, "w.avi": 0.0}, (0.3, 0.4))
    boxes = [(0, 10.0, 10.0), (1, 50.0, 10.0), (0, 100.0, 10.0)]
    seen = [tracks.follow(frame_of(number, boxes)).track_ids for number in (1, 2, 3)]
    assert [ids.tolist() for ids in seen if ids is not None] == [[-1, -1, -1], [2, 3, 1], [2, 3, 1]]
    first = tracks.follow(frame_of(1, boxes, "w.avi")).track_ids
    assert first is not None
    assert first.tolist() == [-1, -1, -1]


@pytest.mark.usefixtures("stand_in")
def test_frames_are_followed_in_their_order_whatever_order_they_come_in() -> None:
    taken: list[tuple[int, str]] = []
    frames = TrackedFrames(
        Tracks({"v.avi": 25.0}, (0.3, 0.4)), lambda place, result: taken.append((place, result.source))
    )
    for position in (1, 2, 0, 3):
        frames.take(position, frame_of(position + 1, []))
    assert taken == [(place, f"v.avi#{place + 1:06d}") for place in range(4)]


def test_a_track_is_written_drawn_and_kept_by_a_choice() -> None:
    result = replace(frame_of(1, [(0, 10.0, 50.0), (1, 90.0, 50.0)]), track_ids=np.array([7, -1]))
    written = detections_of(result, [1, 2])
    assert [entry.get("track_id") for entry in written] == [7, None]
    assert all(map(is_detection, written))
    assert not is_detection({**written[0], "track_id": "7"})
    second = result[1].track_ids
    assert second is not None
    assert second.tolist() == [-1]
    plain = replace(result, track_ids=None)
    assert not np.array_equal(result.draw(), plain.draw())  # its number
    assert (result.draw() != plain.draw()).any(axis=2)[:, 80:].any()  # the colour of what has no track


def test_pictures_have_no_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    flags = ("--model", tmp_path / "none.onnx", "--input", tmp_path / "a.png", "--output", tmp_path / "out")
    assert "got --track for pictures, expected a video" in refused(capsys, *flags, "--track")


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for i in range(frames):
        writer.write(np.full((64, 96, 3), 40 * (i % 5), np.uint8))
    writer.release()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_a_run_goes_on_with_whole_videos_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("infer.task.import_trackers", lambda: None)
    model = write_onnx(tmp_path / "tiny.onnx", batch=1)
    (tmp_path / "in").mkdir()
    for name in ("a.avi", "b.avi"):
        write_video(tmp_path / "in" / name, 4)
    flags = ("--model", model, "--input", tmp_path / "in", "--track", "--resume", "--format", form)
    assert detect(*flags, "--output", tmp_path / "whole") == 0
    rows = list(read_results(form, tmp_path / "whole"))
    assert [[each.get("track_id") for each in row["detections"]] for row in rows] == [[None], [1], [1], [1]] * 2
    if form != "jsonl":
        return
    lines = (tmp_path / "whole" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "results.jsonl").write_bytes(b"".join(lines[:8]))  # three frames of the second video
    assert detect(*flags, "--output", tmp_path / "cut") == 0
    assert (tmp_path / "cut" / "results.jsonl").read_bytes() == b"".join(lines)
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["resumed"] == 4


@pytest.mark.slow
def test_bytetrack_keeps_the_numbers_of_objects_that_cross_and_vanish() -> None:
    pytest.importorskip("trackers")
    tracks, seen = Tracks({"v.avi": 25.0}, (0.3, 0.3)), []
    for number in range(60):
        boxes = [(0, 10.0 + 4 * number, 20.0), (0, 250.0 - 4 * number, 60.0), (1, 10.0 + 4 * number, 22.0)]
        if 20 <= number < 26:
            del boxes[0]  # behind something
        ids = tracks.follow(frame_of(number + 1, boxes)).track_ids
        assert ids is not None
        seen.append(ids.tolist())
    assert sorted(seen[10]) == [1, 2, 3]
    assert all(ids[-2:] == seen[10][-2:] for ids in seen[2:])
    assert all(ids == seen[10] for ids in (*seen[2:20], *seen[30:]))
