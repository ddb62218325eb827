"""Pictures in slices: a model that sees rectangles, on rectangles that the windows cut in every way."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from infer_program import detect, peak_kb, refused
from numpy.typing import NDArray
from tiny_onnx import DESCRIPTION, write_onnx

from gfl import load
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.runtime.description import Arrays
from gfl.runtime.detect import Detect
from gfl.runtime.model import Model
from gfl.runtime.providers import ProviderReport
from gfl.runtime.slices import Decoded, Slicing, Window, count_views, read_slicing, spans, views_of

SIDE, SLOTS = 64, 20  # px of a window, which the model takes as it is
SLICING = Slicing(SIDE, 0.25)


def see_rectangles(images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> Arrays:
    """Every connected rectangle of a colour's plane is an object of that class; blurred ones have lower scores."""
    count = len(images)
    outputs: Arrays = {
        "boxes": np.zeros((count, SLOTS, 4), np.float32),
        "scores": np.zeros((count, SLOTS), np.float32),
        "labels": np.full((count, SLOTS), -1, np.int32),
        "edge_std": np.ones((count, SLOTS, 4), np.float32),
        "count": np.zeros(count, np.int32),
        "complete": np.ones(count, np.int32),
    }
    for i, (height, width) in enumerate(sizes.tolist()):
        for label in range(3 if height else 0):  # others are blanks
            plane = np.ascontiguousarray(images[i, label, :height, :width])
            _, _, stats, _ = cv2.connectedComponentsWithStats((plane > 127).astype(np.uint8))
            for left, top, wide, high, _ in stats[1 : 1 + SLOTS - outputs["count"][i]].tolist():
                place = outputs["count"][i]
                outputs["boxes"][i, place] = left, top, left + wide, top + high
                inside = plane[top : top + high, left : left + wide]
                outputs["scores"][i, place] = 0.5 + 0.4 * inside.mean() / 255
                outputs["labels"][i, place] = label
                outputs["count"][i] += 1
    return outputs


MODEL = Model(Path("m"), DESCRIPTION, ((64, 96), (96, 64)), 2, see_rectangles, lambda: ProviderReport("none", {}, ()))


def picture_of(*rectangles: tuple[int, int, int, int, int], size: tuple[int, int] = (200, 300)) -> Image:
    """A picture with rectangles (class, left, top, right, bottom)."""
    image = np.zeros((*size, 3), np.uint8)
    for label, left, top, right, bottom in rectangles:
        image[top:bottom, left:right, label] = 255
    return image


def found(image: Image, slicing: Slicing = SLICING) -> list[tuple[int, ...]]:
    result = Detect(MODEL, slicing=slicing)(image)
    assert result.size_hw == image.shape[:2]
    rows = np.concatenate([result.labels[:, None], result.boxes_xyxy.round().astype(int)], axis=1)
    return sorted(map(tuple, rows.tolist()))


# Windows of 300 x 200 px: from 0, 47, 94, 142, 189 and 236 px, and from 0, 45, 91 and 136 px, each 64 px long.
CASES = {
    "in one window": [(0, 5, 5, 25, 30)],
    "in two windows whole": [(0, 48, 5, 62, 20)],
    "cut by one, whole in the next": [(0, 50, 5, 80, 30)],
    "larger than the overlap": [(0, 40, 8, 75, 38)],
    "at a corner of four": [(1, 30, 30, 80, 75)],
    "larger than a window": [(1, 20, 10, 180, 40)],
    "larger than a window both ways": [(2, 20, 10, 230, 170)],
    "at the picture's own edge": [(0, 270, 170, 300, 200)],
    "neighbours": [(0, 10, 10, 30, 30), (0, 34, 10, 54, 30), (0, 58, 10, 78, 30), (0, 82, 10, 102, 30)],
    "of two classes in one place": [(0, 40, 20, 75, 50), (1, 42, 22, 76, 52)],
    "of one class, one above the other, both cut": [(0, 40, 10, 75, 30), (0, 40, 34, 75, 54)],
    "none": [],
}


@pytest.mark.parametrize("rectangles", CASES.values(), ids=CASES)
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.0])
def test_an_object_that_windows_cut_is_found_once(
    rectangles: list[tuple[int, int, int, int, int]], overlap: float
) -> None:
    expected = np.array(sorted(rectangles)).reshape(-1, 5)
    boxes = np.array(found(picture_of(*rectangles), Slicing(SIDE, overlap))).reshape(-1, 5)
    assert boxes[:, 0].tolist() == expected[:, 0].tolist()
    # What no window shows whole, nor two of them side by side, is as exact as in the shrunk picture.
    assert np.abs(boxes - expected).max(initial=0) <= 5


def test_small_objects_are_found_in_slices_that_the_whole_picture_loses() -> None:
    rectangles = [(0, 3 + 12 * i, 5 + 10 * j, 6 + 12 * i, 8 + 10 * j) for i in range(24) for j in range(2)]
    image = picture_of(*rectangles)
    assert set(found(image)) >= set(rectangles)  # more than the model gives in one view
    assert len(Detect(MODEL)(image)) < len(rectangles)


def test_windows_cover_the_picture_evenly() -> None:
    for length in (1, 63, 64, 65, 100, 300, 1001):
        for overlap in (0.0, 0.2, 0.9):
            parts = spans(length, Slicing(64, overlap))
            assert parts[0][0] == 0
            assert parts[-1][1] == length
            assert {stop - start for start, stop in parts} == {min(length, 64)}
            shared = [before[1] - after[0] for before, after in itertools.pairwise(parts)]
            assert all(share >= int(64 * overlap) - 1 for share in shared)  # rounded to whole pixels
    image = np.arange(200 * 300 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 300, 3)
    views = list(views_of(Decoded(image), SLICING))
    assert len(views) == count_views((200, 300), SLICING) == 1 + 6 * 4
    assert views[0].window == Window(0, 0, 300, 200)
    for (left, top, right, bottom), part in views:
        assert np.array_equal(part, image[top:bottom, left:right])
    assert len(list(views_of(Decoded(image[:60, :64]), SLICING))) == 1


def test_a_picture_of_one_window_is_as_without_slices() -> None:
    image = picture_of((0, 5, 5, 25, 30), size=(60, 64))
    assert Detect(MODEL, slicing=SLICING)(image) == Detect(MODEL)(image)


def test_results_come_in_order_and_a_broken_picture_takes_none_with_it(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pictures = [
        picture_of((0, 5, 5, 25, 30)),
        str(tmp_path / "broken.png"),
        picture_of((1, 50, 5, 80, 30), size=(64, 64)),
    ]
    pictures.append(picture_of((2, 150, 5, 180, 30)))
    errors: list[int] = []
    results = list(Detect(MODEL, slicing=SLICING).stream(pictures, on_error=lambda place, _: errors.append(place)))
    assert errors == [1]
    assert [result.labels.tolist() for result in results] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("side", "overlap", "named"),
    [(31, None, "a slice of 31"), (None, 0.2, "without a slice"), (800, 0.95, "0.95"), (800, float("nan"), "nan")],
)
def test_slices_that_cannot_be_are_refused(side: int | None, overlap: float | None, named: str) -> None:
    with pytest.raises(InputError, match=f"got .*{re.escape(named)}"):
        read_slicing(side, overlap)


def test_infer_gives_what_load_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    (tmp_path / "in").mkdir()
    for name, size in (("a.png", (200, 300)), ("b.png", (64, 64)), ("d.png", (90, 500))):
        cv2.imwrite(str(tmp_path / "in" / name), picture_of((0, 50, 5, 80, 30), size=size))
    (tmp_path / "in" / "c.png").write_bytes(b"no picture")
    flags = ("--model", model, "--input", tmp_path / "in", "--slice", 64, "--format", "jsonl")
    assert detect(*flags, "--output", tmp_path / "out", "--overlap", 0.25, "--draw") == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()[1:]]
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"]
    assert [row["failure"] is None for row in rows] == [True, True, False, True]
    open_model = load(model, slice=64, overlap=0.25)
    for row in rows:
        if row["failure"] is None:
            result = open_model(tmp_path / "in" / row["file"])
            assert [entry["score"] for entry in row["detections"]] == pytest.approx(result.scores.tolist(), abs=1e-5)
            assert (row["width"], row["height"]) == result.size_hw[::-1]
    assert sorted(path.name for path in (tmp_path / "out" / "drawn").iterdir()) == ["a.jpg", "b.jpg", "d.jpg"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["images"], summary["slice"], summary["overlap"]) == (3, 64, 0.25)
    (tmp_path / "out" / "summary.json").unlink()
    assert "another --overlap" in refused(capsys, *flags, "--output", tmp_path / "out", "--resume", "--draw")


# ---- what is too large to be decoded ----


def write_tiff(path: Path, side: int, rectangles: list[tuple[int, int, int, int, int]]) -> None:
    """A tiled TIFF, written tile by tile."""
    rasterio = pytest.importorskip("rasterio")
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    with rasterio.open(
        path, "w", width=side, height=side, count=3, dtype="uint8", photometric="rgb", **options
    ) as file:
        for top in range(0, side, 512):
            rows = np.zeros((3, min(512, side - top), side), np.uint8)
            rows[:] = (np.arange(side) % 7).astype(np.uint8)  # no file that packs to nothing
            for label, left, first, right, last in rectangles:
                rows[label, max(first - top, 0) : max(last - top, 0), left:right] = 255
            file.write(rows, window=((top, top + rows.shape[1]), (0, side)))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_rows_of_a_file_are_those_of_the_decoded_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    pytest.importorskip("rasterio")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (2000, 1500)) ^ rng.integers(0, 8, (1500, 2000, 3), dtype=np.uint8)
    path = tmp_path / f"large.{suffix}"
    cv2.imwrite(str(path), image)
    cv2.imwrite(str(tmp_path / f"cut.{suffix}"), image)
    whole = list(views_of(Decoded(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)), Slicing(400)))
    monkeypatch.setenv("GFL_MOST_PIXELS", "1000000")
    from gfl.data.picture_rows import open_rows  # late: where the package is missing, nothing needs it

    rows = open_rows(path)
    assert rows is not None
    with rows:
        for expected, got in zip(whole[1:], list(views_of(rows, Slicing(400)))[1:], strict=True):
            assert got.window == expected.window
            assert np.abs(got.image.astype(int) - expected.image.astype(int)).max() <= (8 if suffix == "jpg" else 0)
    data = (tmp_path / f"cut.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=f"cut.{suffix}"):
        Detect(MODEL, slicing=Slicing(400))(tmp_path / f"cut.{suffix}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_picture_of_400_million_pixels_takes_two_gigabytes_at_most(tmp_path: Path) -> None:
    side = 20_000
    write_tiff(tmp_path / "large.tif", side, [(0, 900, 900, 1200, 1200), (1, 9_000, 15_000, 9_200, 15_300)])
    model = write_onnx(tmp_path / "tiny.onnx")
    flags = ("--model", model, "--input", tmp_path / "large.tif", "--output", tmp_path / "out", "--slice", 800)
    assert peak_kb(*flags) < 2_000_000
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert (images[0]["width"], images[0]["height"]) == (side, side)
