"""Pictures as objects and as arrays, all at once and some at a time: the same boxes, checksums, findings and plots."""

from __future__ import annotations

import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from pictures import data_of_sizes

from benchmarks import millions
from gfl.data import coco, coco_json
from gfl.data import pictures as pictures_module
from gfl.data.check import truth
from gfl.data.check.inspection import existing
from gfl.data.check.truth import check_boxes
from gfl.data.coco import CocoData, read_coco
from gfl.data.pictures import boxes_a_label, parts
from gfl.data.plan import fingerprint
from gfl.data.synthetic import write_synthetic
from gfl.report.figures import labels_figure, png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with a crowd, boxes over the border, without area and twice, and annotations in any order."""
    write_synthetic(tmp_path / "data", train=9, val=1, size_hw=(64, 96))
    file = tmp_path / "data" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    rows = content["annotations"]
    rows[1]["iscrowd"] = 1
    rows[2]["bbox"] = [-5, -7.5, 30, 40.25]
    rows[3]["bbox"][2] = 0.5
    rows += [{**row, "id": 1000 + row["id"]} for row in rows[4:12:3]]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    content["annotations"] = [rows[at] for at in order]
    file.write_text(json.dumps(content))
    return tmp_path / "data"


def read(folder: Path, *, keep_empty: bool = False) -> CocoData:
    return read_coco(folder / "annotations" / "instances_train2017.json", folder / "train2017", keep_empty=keep_empty)


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_json, "PIECE", 4)
    monkeypatch.setattr(truth, "PIECE", 4)
    monkeypatch.setattr(parts, "__defaults__", (2,))
    monkeypatch.setattr(pictures_module, "TOGETHER", 2)


def test_some_pictures_at_a_time_are_each_of_them(folder: Path) -> None:
    pictures = read(folder, keep_empty=True).pictures
    assert sum(len(picture.ignored_xyxy) for picture in pictures) == 1
    for of in (pictures, tuple(pictures), pictures[2:], pictures[::-3]):
        at = 0
        for part in parts(of, 2):
            boxes, crowds = (np.cumsum(each)[:-1] for each in (part.counts, part.ignored_counts))
            rows = zip(
                part.ids.tolist(),
                part.sizes_hw.tolist(),
                np.split(part.boxes_xyxy, boxes),
                np.split(part.labels, boxes),
                np.split(part.ignored_xyxy, crowds),
                strict=True,
            )
            for key, size_hw, boxes_xyxy, labels, ignored_xyxy in rows:
                assert (key, size_hw) == (of[at].id, [of[at].height, of[at].width])
                for ours, theirs in (
                    (boxes_xyxy, of[at].boxes_xyxy),
                    (labels, of[at].labels),
                    (ignored_xyxy, of[at].ignored_xyxy),
                ):
                    assert ours.dtype == theirs.dtype
                    np.testing.assert_array_equal(ours, theirs)
                at += 1
        assert at == len(of)


def test_a_checksum_is_that_of_the_pictures_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pictures in (read(folder).pictures, data_of_sizes(7, boxes=3, crowds=2).pictures):
        expected = 0
        for picture in pictures:
            head = np.array([picture.id, picture.height, picture.width], np.int64)
            for array in (head, picture.boxes_xyxy, picture.labels, picture.ignored_xyxy):
                expected = crc32(array.tobytes(), expected)
        assert fingerprint(pictures) == expected
        with monkeypatch.context() as patches:
            small_pieces(patches)
            assert fingerprint(pictures) == expected


def test_what_is_read_counted_found_and_drawn_does_not_depend_on_the_pieces(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(folder)
    assert whole.clipped_boxes == 1
    assert whole.dropped_boxes == 1
    expected = check_boxes(whole), png(labels_figure(whole)), boxes_a_label(whole.pictures, 3).tolist()
    names = {finding.name for finding in expected[0]}
    assert {"boxes_clipped", "boxes_without_area", "boxes_doubled", "crowds"} <= names
    small_pieces(monkeypatch)
    pieces = read(folder)
    for ours, theirs in zip(pieces.pictures, whole.pictures, strict=True):
        np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
    found = check_boxes(pieces), png(labels_figure(pieces)), boxes_a_label(pieces.pictures, 3).tolist()
    assert found == expected
    labels = np.concatenate([picture.labels for picture in whole.pictures])
    assert found[2] == np.bincount(labels, minlength=3).tolist()


def test_the_plot_of_sizes_counts_every_box_in_its_bar(folder: Path) -> None:
    data = read(folder)
    boxes = np.concatenate([picture.boxes_xyxy for picture in data.pictures]).astype(np.float64)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    bars = labels_figure(data).axes[1].patches
    edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]  # type: ignore[attr-defined]
    heights = [bar.get_height() for bar in bars]  # type: ignore[attr-defined]
    assert heights == np.histogram(sides, edges)[0].tolist()
    assert sum(heights) == len(boxes)


def test_an_index_keeps_what_follows_from_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("gfl.data.annotation_index.INDEX_FROM", 0)
    first = read(folder)
    with monkeypatch.context() as patches:
        for name in ("_usable_boxes", "_places"):
            patches.setattr(coco, name, refuse)
        second = read(folder)
    assert fingerprint(first.pictures) == fingerprint(second.pictures)
    assert (first.clipped_boxes, first.dropped_boxes) == (second.clipped_boxes, second.dropped_boxes) == (1, 1)
    (kept,) = tmp_path.glob("cache/annotations/*/boxes-*/")
    assert {path.stem for path in kept.iterdir()} == {"rows", "starts", "crowd_rows", "crowd_starts", "counts"}


def refuse(*_: object) -> None:
    raise AssertionError("computed again")


def test_files_that_exist_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    names = ("b/2.jpg", "a/2.jpg", "c/1.jpg", "a/1.jpg", "b/1.jpg", "b/2.jpg")
    assert existing([tmp_path / name for name in names]).tolist() == [True, False, False, True, True, True]
    assert existing([]).tolist() == []


def test_mapped_arrays_that_are_let_go_of_say_the_same_and_take_no_memory(tmp_path: Path) -> None:
    values = np.arange(2**20)  # 8 MiB
    np.save(tmp_path / "a.npy", values)
    mapped = np.asarray(np.load(tmp_path / "a.npy", mmap_mode="r"))
    coco_json.let_go(mapped, values)  # the other is none
    assert mapped[:: 2**9].sum() == values[:: 2**9].sum()
    if coco_json.DONT_NEED is not None:
        before = resident_kb(tmp_path / "a.npy")
        coco_json.let_go(mapped[5:][::2])
        assert resident_kb(tmp_path / "a.npy") < 100 < 8000 < before
    np.testing.assert_array_equal(mapped, values)


def resident_kb(path: Path) -> int:
    """What of a file this process has in memory, kB."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(at for at, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) for line in lines[at:] if line.startswith("Rss:"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="sizes that processes share are Linux's")
def test_memory_does_not_grow_by_more_than_a_few_hundred_bytes_a_picture(tmp_path: Path) -> None:
    pictures, more = 20_000, 100_000
    environment = {**os.environ, "GFL_CACHE": str(tmp_path / "cache")}
    peaks = []
    for count in (pictures, more):
        data = millions.data_set(tmp_path, count)
        first, second = (millions.open_once(data, environment) for _ in range(2))
        assert second.kept_mb < 100
        assert first.peak_mb < 700  # of which the rows of a window of the file are most
        peaks.append(millions.train_once(data, environment, tmp_path / f"run{count}").peak_mb)
    grown = (peaks[1] - peaks[0]) * 2**20 / (more - pictures)
    # Of both ranks together; a picture and its 15 boxes are 1.2 kB in the index, and as objects they were 8 kB.
    assert grown < 3000
