"""Bulk jobs without an engine: flags, what --pictures names, the detector that engines call, the folder, the counts."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import fsspec
import infer_program
import numpy as np
import pytest
from pictures import assert_told
from tiny_onnx import H, W, write_onnx

pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
import pyarrow as pa
import pyarrow.parquet as pq

from gfl.errors import InputError
from infer.bulk.counts import count_parts, difference
from infer.bulk.detector import SCHEMA, Detector
from infer.bulk.filesystems import locate
from infer.bulk.flags import check_flags, parser
from infer.bulk.folder import CHECKPOINT, LIST, PARTS, read_json, read_list, write_json, write_list
from infer.bulk.share import share_of
from infer.bulk.sources import Listed, list_pictures


def png(level: int, height: int = H, width: int = W) -> bytes:
    return bytes(cv2.imencode(".png", np.full((height, width, 3), level, np.uint8))[1])


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in a folder and below it, and what is none."""
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    for number, name in enumerate(["a.png", "c.png", "b/a.png", "b/z.JPG"]):
        (folder / name).write_bytes(png(50 * number))
    (folder / "notes.txt").write_text("none")
    (folder / ".hidden.png").write_bytes(png(0))
    (folder / "b" / "circle").symlink_to(folder)
    return folder


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of fsspec's file system in memory, as a URI."""
    files = fsspec.filesystem("memory")
    files.pipe({"/bulk/in/a.png": png(10), "/bulk/in/deep/b.png": png(20), "/bulk/in/x.md": b"none"})
    yield "memory://bulk/in"
    files.rm("/bulk", recursive=True)


def listed(*texts: object) -> list[Listed]:
    return list(list_pictures([str(text) for text in texts], Counter()))


def names(*texts: object) -> list[str]:
    return [each.file for each in listed(*texts)]


def table(pictures: list[Listed]) -> pa.Table:
    """Pictures as a job hands them to a detector."""
    return pa.Table.from_pylist([{"id": i, **each._asdict()} for i, each in enumerate(pictures, 1)], schema=LIST)


def plain(rows: pa.Table) -> list[dict[str, object]]:
    """Rows as infer writes them."""
    found = rows.drop_columns(["time_s"]).to_pylist()
    for row in found:
        for detection in row["detections"]:
            detection["bbox"] = [round(value, 2) for value in detection["bbox"]]
            detection["score"] = round(detection["score"], 5)
            assert detection.pop("track_id") is None
    return found


# ---- what --pictures names ----


def test_a_folder_gives_its_pictures_and_those_below_once_and_counts_the_rest(folder: Path) -> None:
    left_out: Counter[str] = Counter()
    found = list(list_pictures([str(folder), f"{folder}/c.png"], left_out))
    assert [each.file for each in found] == ["a.png", "c.png", "b/a.png", "b/z.JPG"]
    assert [Path(each.uri).name for each in found] == ["a.png", "c.png", "a.png", "z.JPG"]
    assert left_out == {".txt": 1}


def test_patterns_name_what_they_match_and_two_stars_all_folders_below(folder: Path) -> None:
    assert names(f"{folder}/*.png") == ["a.png", "c.png"]
    assert names(f"{folder}/**/a.png") == ["a.png", "b/a.png"]
    assert names(f"file://{folder}/b/?.png") == names(f"file:{folder}/b/*.png") == ["a.png"]


def test_what_names_nothing_is_told(folder: Path) -> None:
    assert_told(lambda: listed(folder / "no"), ["no such file or folder", "--pictures"])
    assert_told(lambda: listed(f"{folder}/*.bmp"), ["names nothing"])
    assert_told(lambda: listed(""), ["empty --pictures"])
    assert_told(lambda: listed("nowhere://bucket/a"), ["nowhere://bucket", "Protocol not known"])


def test_another_file_system_is_listed_and_read_like_a_folder(memory: str, model: Path) -> None:
    assert names(memory) == ["a.png", "deep/b.png"]
    assert names(f"{memory}/*.png") == ["a.png"]
    rows = plain(Detector(model)(table([*listed(memory), Listed("c", f"{memory}/c.png")])))
    assert [row["failure"] is None for row in rows] == [True, True, False]
    assert f"{memory.replace('//', '///')}/c.png" in str(rows[2]["failure"])


def test_members_of_a_shard_are_read_by_their_place(tmp_path: Path, model: Path) -> None:
    contents = {"0.png": png(10), "0.json": b"{}", "1.png": png(200), "bad.png": b"no picture"}
    shard = archive(tmp_path / "s.tar", contents)
    found = listed(shard)
    assert [each.file for each in found] == ["s.tar/0.png", "s.tar/1.png", "s.tar/bad.png"]
    data = shard.read_bytes()
    assert [data[each.offset or 0 :][: each.size] for each in found] == [
        contents[n] for n in ("0.png", "1.png", "bad.png")
    ]
    rows = plain(Detector(model)(table(found)))
    assert [row["height"] for row in rows] == [H, H, None]
    assert "s.tar/bad.png" in str(rows[2]["failure"])


def test_a_shard_that_was_cut_gives_what_it_holds_and_a_failure(tmp_path: Path, model: Path) -> None:
    data = archive(tmp_path / "s.tar", {"0.png": png(10), "1.png": bytes(5000)}).read_bytes()
    (tmp_path / "s.tar").write_bytes(data[:3000])
    (tmp_path / "t.tar").write_bytes(b"no tar at all" * 100)
    rows = plain(Detector(model)(table(listed(tmp_path / "s.tar", tmp_path / "t.tar"))))
    assert [row["file"] for row in rows] == ["s.tar/0.png", "s.tar/1.png", "s.tar", "t.tar"]
    assert [row["failure"] is None for row in rows] == [True, False, False, False]
    assert "it ends after" in str(rows[1]["failure"])
    assert "t.tar cannot be read to its end" in str(rows[3]["failure"])


def test_a_table_gives_the_pictures_that_its_paths_lead_to(folder: Path, model: Path) -> None:
    paths = ["a.png", str(folder / "c.png"), "gone.png", None]
    pq.write_table(pa.table({"label": [1, 2, 3, 4], "path": paths}), folder / "list.parquet")
    rows = plain(Detector(model)(table(listed(folder / "list.parquet"))))
    assert [row["file"] for row in rows] == [*paths[:3], "list.parquet#3"]
    assert [row["failure"] is None for row in rows] == [True, True, False, False]


def test_a_table_gives_the_pictures_that_it_holds(tmp_path: Path, model: Path) -> None:
    contents = [png(10), png(60), None, b"no picture", png(110)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": contents}), path, row_group_size=2)
    rows = plain(Detector(model)(table(listed(path))))
    assert [row["file"] for row in rows] == [f"t.parquet#{i}" for i in range(5)]
    assert [row["failure"] is None for row in rows] == [True, True, False, False, True]
    assert len({str(row["detections"]) for row in rows}) == 4
    pq.write_table(pa.table({"bytes": contents, "file": list("abcde")}), path)
    assert names(path) == list("abcde")


def test_tables_without_pictures_are_told_and_damaged_ones_are_rows(tmp_path: Path, model: Path) -> None:
    pq.write_table(pa.table({"bytes": ["text"], "label": [1]}), tmp_path / "t.parquet")
    assert_told(lambda: listed(tmp_path / "t.parquet"), ["columns bytes, label", "paths or URIs"])
    (tmp_path / "t.parquet").write_bytes(b"PAR1" * 9)
    rows = plain(Detector(model)(table(listed(tmp_path / "t.parquet"))))
    assert "t.parquet cannot be read to its end" in str(rows[0]["failure"])


# ---- the detector ----


@pytest.mark.parametrize("side", [None, 40])
def test_a_detector_gives_infers_rows_also_for_what_cannot_be_read(
    folder: Path, model: Path, tmp_path: Path, side: int | None
) -> None:
    content = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(content[:-20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "large.png").write_bytes(png(0, 300, 300))
    flags = ["--model", model, "--input", folder, "--output", tmp_path / "out", "--recursive", "--most_pixels", 80_000]
    assert infer_program.detect(*flags, "--format", "jsonl", *(["--slice", side] if side else [])) == 0
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()[1:]
    expected = {row["file"]: row for row in map(json.loads, lines)}
    found = plain(Detector(model, most_pixels=80_000, slice=side)(table(listed(folder))))
    assert {row["file"]: {**row, "id": 0} for row in found} == {n: {**row, "id": 0} for n, row in expected.items()}
    assert len(expected) == 7


def test_a_detector_takes_bytes_and_frames_and_selects(model: Path) -> None:
    detector = Detector(model, min_score=0.6, top=1)
    given = pa.table({"id": [7, 3], "file": ["x", "y"], "bytes": [png(0), png(255)]})
    rows = detector(given)
    assert rows.schema.equals(SCHEMA)
    assert [(row["id"], row["count"]) for row in rows.to_pylist()] == [(7, 0), (3, 1)]
    pandas = pytest.importorskip("pandas")
    frame = detector.frame(pandas.DataFrame(given.to_pydict()))
    assert list(frame["count"]) == [0, 1]


def test_a_detector_refuses_pictures_without_ids(model: Path) -> None:
    assert_told(lambda: Detector(model)(pa.table({"file": ["a"]})), ["columns file", "expected id"])


def test_what_the_model_fails_on_is_a_row_and_the_others_are_answered(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector(model)
    run = detector._model.run

    def fail(images: np.ndarray, sizes: np.ndarray) -> object:
        if images.max() == 200:
            raise InputError("the memory is full")
        return run(images, sizes)

    object.__setattr__(detector._model, "run", fail)
    levels = [10, 200, 30]
    given = pa.table({"id": [1, 2, 3], "file": ["a", "b", "c"], "bytes": list(map(png, levels))})
    reasons = detector(given)["failure"].to_pylist()
    assert [reason is None for reason in reasons] == [True, False, True]
    assert "the model failed on b: the memory is full" in reasons[1]


# ---- the folder and the counts ----


def test_the_list_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infer.bulk.folder.GROUP_ROWS", 4)
    out = locate(str(tmp_path / "out"))
    written = write_list(out, (Listed(f"{i}.png", f"/in/{i}.png") for i in range(10)))
    assert written.pictures == 10
    assert read_list(out.uri, 3, 9)["id"].to_pylist() == [4, 5, 6, 7, 8, 9]
    assert read_list(out.uri, 8, 10)["file"].to_pylist() == ["8.png", "9.png"]
    again = write_list(out, (Listed(f"{i}.png", f"/in/{i}.png") for i in range(9)))
    assert again.sha256 != written.sha256
    assert_told(lambda: write_list(out, [Listed("\udce9", "\udce9")]), ["no UTF-8"])


def test_files_of_the_folder_are_whole_or_not_there(tmp_path: Path) -> None:
    out = locate(str(tmp_path))
    assert read_json(out, "job.json") is None
    write_json(out, "job.json", {"a": 1})
    assert read_json(out, "job.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
    (tmp_path / "job.json").write_text("{")
    assert_told(lambda: read_json(out, "job.json"), ["cannot be read", "--out"])


def row(number: int, *scores: float, failure: str | None = None) -> dict[str, object]:
    found = [{"category_id": 1, "bbox": [0.0, 0.0, 1.0, 1.0], "score": score} for score in scores]
    complete = None if failure else number % 2 == 0
    some = {"id": number, "file": f"{number}.png", "count": len(found), "complete": complete, "failure": failure}
    return {**some, "detections": found}


def test_parts_are_counted_but_for_one_that_is_being_written(tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    (tmp_path / CHECKPOINT).mkdir()
    for name, rows in {
        "x_0": [row(1, 0.7, 0.2), row(2, 0.71)],
        "x_1": [row(3, failure="why")],
        "y_0": [row(9)],
    }.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / PARTS / f"{name}-0.parquet")
        (tmp_path / CHECKPOINT / f"{name}{'.pending' if name == 'y_0' else ''}.parquet").touch()
    counts = count_parts(locate(str(tmp_path)), [{"id": 1, "name": "cat", "score_threshold": 0.7}])
    assert counts.ids.tolist() == [1, 2, 3]
    assert (counts.failed, counts.incomplete, counts.detections, counts.shown) == (1, 1, 3, {"cat": 2})
    assert [tuple(each) for each in counts.failures] == [("3.png", "why")]


def test_rows_that_are_missing_or_there_twice_are_told() -> None:
    assert difference(np.array([3, 1, 2]), 3) is None
    said = difference(np.array([1, 1, 9]), 8)
    assert said == (
        "7 rows are missing (id 2, 3, 4, 5, 6, ...) and 1 row is there more than once (id 1) and 1 row is of no "
        "picture (id 9)"
    )


# ---- flags, and a cluster's room ----


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "0"], "--workers 0"),
        (["--max_failures", "2"], "--max_failures 2"),
        (["--min_score", "2"], "--min_score 2"),
        (["--top", "0"], "--top 0"),
    ],
)
def test_flags_are_refused_in_a_sentence(flags: list[str], said: str) -> None:
    arguments: argparse.Namespace = parser().parse_args(["--model", "m", "--pictures", "p", "--out", "o", *flags])
    assert_told(lambda: check_flags(arguments), [said])


def test_workers_leave_room_for_reading_and_writing() -> None:
    assert share_of("cpu", 1, None, {"CPU": 8.0})[:2] == (6, 1)
    assert share_of("auto", 4, None, {"CPU": 16.0})[:2] == (3, 4)
    assert share_of("cpu", 1, None, {"CPU": 2.0})[:2] == (1, 0.5)
    on_devices = share_of("cuda", 1, None, {"CPU": 34.0, "GPU": 8.0})
    assert (on_devices.workers, on_devices.readers, on_devices.options) == (8, 4, {"num_cpus": 4, "num_gpus": 1})
    assert share_of("cann", 1, 2, {"CPU": 8.0, "NPU": 2.0}).options == {"num_cpus": 3, "resources": {"NPU": 1}}


@pytest.mark.parametrize(
    ("provider", "workers", "resources", "said"),
    [
        ("cuda", None, {"CPU": 8.0}, "sees no GPU"),
        ("cpu", 7, {"CPU": 8.0}, "expected at most 6"),
        ("cpu", None, {"CPU": 1.0}, "expected at least 2"),
    ],
)
def test_too_little_room_is_told(provider: str, workers: int | None, resources: dict[str, float], said: str) -> None:
    assert_told(lambda: share_of(provider, 1, workers, resources), [said])
