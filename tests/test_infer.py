"""`infer/run.py` and `infer/merge.py` on exports of a tiny model: results, files, shards, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import tiny
from infer_program import peak_kb
from numpy.typing import NDArray
from PIL import Image as PillowImage
from tiny_export import CATEGORY_IDS, NAMES, paired_exports, tiny_graph, write_model

from gfl import load
from gfl.data.picture_headers import stated_pixels
from gfl.errors import InputError
from gfl.runtime.model import Model
from gfl.runtime.result import Result
from infer import drawn_pictures, merge, run, task
from infer.drawn_pictures import drawn_names
from infer.sources import find_inputs

ROOT = Path(__file__).resolve().parents[1]
H, W = tiny.CANVAS
SIZES = [(H, W), (W, H), (50, 90), (120, 180), (200, 100), (H, W), (33, 47), (W, H)]  # five of them lie
Row = dict[str, object]


# ---- what the tests share ----


def write_pictures(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Noise as PNG, b.png, c.png, ...: on it, the tiny model finds a lot."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i, size in enumerate(sizes):
        cv2.imwrite(str(folder / f"{chr(98 + i)}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return folder


def write_video(path: Path, frames: int = 5) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (W, H))
    rng = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
    writer.release()
    return path


def frames_of(video: Path) -> list[NDArray[np.uint8]]:
    """The frames of a video, RGB."""
    stream = cv2.VideoCapture(str(video))
    frames = []
    while (read := stream.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    stream.release()
    return frames  # type: ignore[return-value]


def detect(*arguments: object) -> None:
    """Run the program, which must end well."""
    assert run.main([str(argument) for argument in arguments]) == 0


def rows_of(output: Path) -> list[Row]:
    rows: list[Row] = json.loads((output / "detections.json").read_text())
    return rows


def summary_of(output: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((output / "summary.json").read_text())
    return content


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbers(rows: Sequence[Row]) -> NDArray[np.float64]:
    """(D,6): category id, x, y, width, height, score."""
    return np.array([[row["category_id"], *row["bbox"], row["score"]] for row in rows]).reshape(-1, 6)  # type: ignore[misc]


def assert_same_detections(rows: Sequence[Row], others: Sequence[Row]) -> None:
    """The same pictures in the same order, and of each the same detections but for the last digits."""
    assert [(row["image_id"], row["file_name"]) for row in rows] == [(o["image_id"], o["file_name"]) for o in others]
    np.testing.assert_allclose(numbers(rows)[:, :5], numbers(others)[:, :5], rtol=1e-3, atol=0.012)  # 0.01 px
    np.testing.assert_allclose(numbers(rows)[:, 5], numbers(others)[:, 5], rtol=1e-3, atol=1e-3)


def expected_rows(results: Sequence[Result]) -> list[Row]:
    return [
        {**row, "file_name": Path(result.source).name}
        for image_id, result in enumerate(results, start=1)
        for row in result.to_coco(image_id)
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paired_exports(tmp_path_factory)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("input") / "pictures", SIZES)


@pytest.fixture(scope="module")
def whole(exports: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program wrote for all pictures, drawn ones included."""
    output = tmp_path_factory.mktemp("output") / "whole"
    detect("--model", exports, "--input", pictures, "--output", output, "--draw", "--score", 0.2)
    return output


@pytest.fixture
def refused(exports: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the program says to flags that it does not take; it must leave nothing behind."""

    def refuse(*flags: object) -> str:
        usual = {"--model": exports, "--input": pictures, "--output": tmp_path / "output"}
        arguments = [str(part) for pair in usual.items() for part in pair]
        said = tiny.refusal(run.main, [*arguments, *map(str, flags)], capsys)
        assert not (tmp_path / "output").exists()
        return said

    return refuse


# ---- results ----


def test_results_are_those_of_one_picture_at_a_time(whole: Path, exports: Path, pictures: Path) -> None:
    one = load(exports)
    results = [one(pictures / name) for name in entries(pictures)]
    rows = rows_of(whole)
    assert len(rows) > 50
    assert_same_detections(rows, expected_rows(results))


def test_results_of_a_checkpoint_are_those_of_its_exports(
    whole: Path, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    detect("--model", checkpoint, "--input", pictures, "--output", tmp_path / "output", "--batch", 3)
    assert_same_detections(rows_of(tmp_path / "output"), rows_of(whole))
    assert summary_of(tmp_path / "output")["batch"] == 3


def test_boxes_are_in_the_pictures_own_pixels(whole: Path) -> None:
    sizes = dict(zip("bcdefghi", SIZES, strict=True))
    reach = dict.fromkeys(sizes, 0.0)
    for row in rows_of(whole):
        x, y, width, height = row["bbox"]  # type: ignore[misc]
        name = str(row["file_name"])[0]
        assert 0 <= x <= x + width <= sizes[name][1] + 1e-3
        assert 0 <= y <= y + height <= sizes[name][0] + 1e-3
        reach[name] = max(reach[name], (x + width) / sizes[name][1])
    assert min(reach.values()) > 0.7  # of a picture that was shrunk, too


def test_rows_are_coco_results_in_the_order_of_the_names(whole: Path) -> None:
    rows = rows_of(whole)
    names = [row["file_name"] for row in rows]
    assert names == sorted(names, key=str)
    assert {row["file_name"]: row["image_id"] for row in rows} == {f"{'bcdefghi'[i]}.png": i + 1 for i in range(8)}
    assert {row["category_id"] for row in rows} <= set(CATEGORY_IDS)
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score", "file_name"}


def test_summary_counts_what_was_done(whole: Path, exports: Path) -> None:
    said, rows = summary_of(whole), rows_of(whole)
    assert (said["images"], said["failed"], said["batch"], said["shard"]) == (8, [], 2, None)
    assert said["canvases"] == {f"{H}x{W}": {"pictures": 5, "runs": 3}, f"{W}x{H}": {"pictures": 3, "runs": 2}}
    assert said["provider"] == "CPUExecutionProvider"
    assert said["nodes_by_provider"].keys() == {"CPUExecutionProvider"}  # type: ignore[attr-defined]
    assert said["detections"] == len(rows)
    above = [row for row in rows if row["score"] >= 0.2]  # type: ignore[operator]
    assert 0 < len(above) < len(rows)
    by_name = dict(zip(CATEGORY_IDS, NAMES, strict=True))
    counts = {name: sum(by_name[row["category_id"]] == name for row in above) for name in NAMES}  # type: ignore[index]
    assert said["detections_of_score"] == {name: count for name, count in counts.items() if count}
    assert 0 < said["p50_ms"] <= said["p95_ms"] < 1000 * said["seconds"]  # type: ignore[operator]
    assert said["img_per_s"] == pytest.approx(8 / said["seconds"])  # type: ignore[operator]
    assert sum(said["share"].values()) == pytest.approx(1)  # type: ignore[attr-defined]


def test_drawn_pictures_have_the_size_of_the_originals(whole: Path, pictures: Path) -> None:
    assert entries(whole) == ["detections.json", "drawn", "images.json", "summary.json"]
    assert entries(whole / "drawn") == [f"{letter}.jpg" for letter in "bcdefghi"]
    for letter, size in zip("bcdefghi", SIZES, strict=True):
        drawn = cv2.imread(str(whole / "drawn" / f"{letter}.jpg"))
        assert drawn.shape[:2] == size


def test_score_counts_and_draws_but_leaves_the_detections(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path
) -> None:
    flags = ("--model", exports, "--input", pictures / "b.png", "--output", tmp_path / "output", "--draw", "--score", 1)
    detect(*flags)
    said = summary_of(tmp_path / "output")
    assert said["detections_of_score"] == {}
    assert said["detections"] == len([row for row in rows_of(whole) if row["file_name"] == "b.png"])
    plain = cv2.imread(str(pictures / "b.png")).astype(int)
    drawn = cv2.imread(str(tmp_path / "output" / "drawn" / "b.jpg")).astype(int)
    full = cv2.imread(str(whole / "drawn" / "b.jpg")).astype(int)
    assert abs(drawn - plain).mean() < abs(full - plain).mean()


def test_pictures_too_large_to_keep_are_drawn_all_the_same(
    whole: Path, exports: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "KEPT_PIXELS", 0)
    detect("--model", exports, "--input", pictures, "--output", tmp_path / "output", "--draw", "--score", 0.2)
    for name in entries(whole / "drawn"):
        assert (tmp_path / "output" / "drawn" / name).read_bytes() == (whole / "drawn" / name).read_bytes()


def test_ids_are_those_of_the_annotations(whole: Path, exports: Path, pictures: Path, tmp_path: Path) -> None:
    ids = {name: 100 - i for i, name in enumerate(entries(pictures))}
    images = [{"id": key, "file_name": f"val2017/{name}"} for name, key in ids.items()]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    flags = ("--model", exports, "--input", pictures, "--output", tmp_path / "output")
    detect(*flags, "--annotations", tmp_path / "coco.json")
    assert_same_detections(
        rows_of(tmp_path / "output"), [{**row, "image_id": ids[str(row["file_name"])]} for row in rows_of(whole)]
    )


# ---- inputs ----


def test_pattern_takes_the_folders_below_and_names_them(exports: Path, tmp_path: Path) -> None:
    for part in ("north", "south"):
        write_pictures(tmp_path / part, SIZES[:2])
    (tmp_path / "south" / "notes.txt").write_text("no picture")
    (tmp_path / "south" / "._b.png").write_bytes(b"of macOS")
    detect("--model", exports, "--input", f"{tmp_path}/**/*", "--output", tmp_path / "output", "--draw")
    assert sorted({str(row["file_name"]) for row in rows_of(tmp_path / "output")}) == [
        f"{part}/{name}.png" for part in ("north", "south") for name in "bc"
    ]
    assert entries(tmp_path / "output" / "drawn") == ["north_b.jpg", "north_c.jpg", "south_b.jpg", "south_c.jpg"]


def test_frames_of_a_video_are_pictures(exports: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi")
    detect("--model", exports, "--input", video, "--output", tmp_path / "output", "--draw", "--score", 0)
    rows, said = rows_of(tmp_path / "output"), summary_of(tmp_path / "output")
    assert (said["images"], said["notes"]) == (5, [])
    assert {row["image_id"]: row["file_name"] for row in rows} == {i: f"clip.avi#00000{i}" for i in range(1, 6)}
    assert entries(tmp_path / "output" / "drawn") == ["clip.mp4"]
    frames = frames_of(video)
    one = load(exports)
    expected = [replace(one(frame), source=f"clip.avi#{i:06d}") for i, frame in enumerate(frames, start=1)]
    assert_same_detections(rows, expected_rows(expected))


def test_video_that_ends_early_is_kept_as_far_as_it_goes(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "clip.avi", frames=10)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    detect("--model", exports, "--input", video, "--output", tmp_path / "output")
    said = summary_of(tmp_path / "output")
    assert 2 <= said["images"] <= 6  # type: ignore[operator]
    sentence = f"clip.avi ends after {said['images']} of the 10 frames that it states"
    assert sentence in str(said["notes"])
    assert sentence in capsys.readouterr().err


def write_odd_pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "one.png"), noise[:1, :1])
    cv2.imwrite(str(folder / "grey.png"), noise[:, :, 0])
    cv2.imwrite(str(folder / "deep.png"), noise.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "clear.png"), np.dstack([noise, noise[:, :, :1]]))
    cv2.imwrite(str(folder / "thin.png"), np.repeat(noise[:, :1], 3, axis=0))
    picture = PillowImage.fromarray(noise)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.quantize(16).save(folder / "palette.png")
    turned = PillowImage.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    picture.save(folder / "turned.jpg", exif=turned)
    picture.save(folder / "broken.jpg")
    (folder / "broken.jpg").write_bytes((folder / "broken.jpg").read_bytes()[:-300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    return folder


def test_odd_pictures_work_and_damaged_ones_are_passed_over(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_odd_pictures(tmp_path / "odd")
    detect("--model", exports, "--input", folder, "--output", tmp_path / "output", "--draw")
    said, spoken = summary_of(tmp_path / "output"), capsys.readouterr().err
    damaged = ["broken.jpg", "empty.png", "text.jpg"]
    assert [failure["file"] for failure in said["failed"]] == damaged  # type: ignore[attr-defined]
    assert said["images"] == len(entries(folder)) - len(damaged)
    for name in damaged:
        assert f"passed over: got a {'truncated' if name == 'broken.jpg' else 'file that cannot be decoded'}" in spoken
        assert str(folder / name) in spoken
    upright = cv2.imread(str(tmp_path / "output" / "drawn" / "turned.jpg"))
    assert upright.shape[:2] == (60, 40)
    assert not set(said["canvases"]) - {f"{H}x{W}", f"{W}x{H}"}  # type: ignore[call-overload]


# A program, and the peak of its own memory in KB: what the system counts of a child starts at its parent's peak.
@pytest.mark.slow
def test_huge_pictures_are_in_memory_one_at_a_time(exports: Path, tmp_path: Path) -> None:
    (tmp_path / "huge").mkdir()
    scene = np.zeros((9000, 12000, 3), np.uint8)
    cv2.rectangle(scene, (3000, 2000), (9000, 7000), (40, 200, 90), -1)
    cv2.imwrite(str(tmp_path / "huge" / "0.jpg"), scene)
    for i in range(1, 4):
        shutil.copy(tmp_path / "huge" / "0.jpg", tmp_path / "huge" / f"{i}.jpg")
    del scene
    kilobytes = peak_kb("--model", exports, "--input", tmp_path / "huge", "--output", tmp_path / "output")
    assert summary_of(tmp_path / "output")["images"] == 4
    # 324 MB as BGR and as RGB, and what the program takes anyway; two at a time would take 1300.
    assert kilobytes < 1_150_000


# ---- shards ----


@pytest.fixture(scope="module")
def sharded(exports: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of three shards, not to be changed."""
    output = tmp_path_factory.mktemp("sharded") / "output"
    for i in range(1, 4):
        detect("--model", exports, "--input", pictures, "--output", output, "--shard", f"{i}/3", "--score", 0.2)
    return output


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    shutil.copytree(sharded, tmp_path / "shards")
    return tmp_path / "shards"


def test_merged_shards_are_the_whole(sharded: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infer.merge", "--input", str(sharded), "--output", str(tmp_path / "merged")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("8 images, ")
    assert_same_detections(rows_of(tmp_path / "merged"), rows_of(whole))
    ours, theirs = summary_of(tmp_path / "merged"), summary_of(whole)
    for key in ("images", "failed", "detections_of_score", "incomplete", "model_sha256", "input_sha256", "provider"):
        assert ours[key] == theirs[key]
    assert set(theirs) - {"model", "shard", "canvases", "notes", "first_result_s", "gfl_version"} <= set(ours)
    assert sum(ours["nodes_by_provider"].values()) > 0
    assert sum(ours["share"].values()) == pytest.approx(1.0)
    assert [summary_of(sharded / f"shard-{i}-of-3")["images"] for i in (1, 2, 3)] == [2, 3, 3]


def test_more_shards_than_pictures_make_empty_ones(exports: Path, pictures: Path, tmp_path: Path) -> None:
    for i in (1, 2):
        flags = ("--input", pictures / "b.png", "--output", tmp_path / "shards", "--shard", f"{i}/2")
        detect("--model", exports, *flags)
    assert rows_of(tmp_path / "shards" / "shard-1-of-2") == []
    assert merge.main(["--input", str(tmp_path / "shards"), "--output", str(tmp_path / "merged")]) == 0
    assert summary_of(tmp_path / "merged")["images"] == 1


def change_summary(folder: Path, **changes: object) -> None:
    (folder / "summary.json").write_text(json.dumps({**summary_of(folder), **changes}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda shards: shutil.rmtree(shards / "shard-2-of-3"), "lacks the results of shard 2/3, expected all 3"),
        (lambda shards: (shards / "shard-3-of-3" / "summary.json").unlink(), "lacks the results of shard 3/3"),
        (lambda shards: shutil.copytree(shards / "shard-1-of-3", shards / "shard-1-of-2"), "shards of 2 and of 3"),
        (lambda shards: change_summary(shards / "shard-2-of-3", model_sha256="0"), "is of another model than"),
        (lambda shards: change_summary(shards / "shard-2-of-3", input_sha256="0"), "is of other pictures than"),
        (
            lambda shards: change_summary(shards / "shard-2-of-3", annotations="a.json"),
            "is of other --annotations than",
        ),
        (lambda shards: (shards / "shard-2-of-3" / "detections.json").write_text("[]"), "has 0 detections"),
        (lambda shards: (shards / "shard-2-of-3" / "summary.json").write_text("{}"), "lacks annotations"),
        (lambda shards: (shards / "shard-2-of-3" / "summary.json").write_text("{"), "cannot be read"),
        (shutil.rmtree, "holds no shard-i-of-n"),
    ],
    ids=["missing", "unfinished", "two_splits", "model", "pictures", "ids", "changed", "foreign", "no_json", "nothing"],
)
def test_shards_that_are_not_one_whole_are_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str
) -> None:
    damage(shards)
    assert said in tiny.refusal(merge.main, ["--input", str(shards), "--output", str(tmp_path / "merged")], capsys)
    assert not (tmp_path / "merged").exists()


# ---- the program ----


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, runpy\n"
        "sys.argv = ['infer/run.py', '--help']\n"
        "try:\n    runpy.run_path('infer/run.py', run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    code, *modules = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert not {"numpy", "cv2", "torch", "onnxruntime", "rich"} & set(modules)
    assert "--shard i/n" in done.stdout


def test_onnx_needs_numpy_opencv_and_onnxruntime_only(
    exports: Path, pictures: Path, whole: Path, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"  # all that this interpreter is to find
    packages.mkdir()
    for name in ("numpy", "cv2", "onnxruntime"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        home = Path(spec.origin).parent
        (packages / name).symlink_to(home)
        for libraries in home.parent.glob("*.libs"):
            if not (packages / libraries.name).exists():
                (packages / libraries.name).symlink_to(libraries)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    missing = subprocess.run([sys.executable, "-S", "-c", "import torch"], env=environment, capture_output=True)
    assert missing.returncode != 0
    command = [sys.executable, "-S", str(ROOT / "infer" / "run.py"), "--model", str(exports), "--draw"]
    command += ["--input", str(pictures), "--output", "output"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_detections(rows_of(tmp_path / "output"), rows_of(whole))


def test_runs_as_a_module_and_says_what_it_did(exports: Path, pictures: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infer.run", "--model", str(exports), "--input", f"{pictures}/[bc].png"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "output")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"model   {exports} | fp32 | 5 classes (circle, square, triangle, star, ring)" in done.stdout
    assert f"{H}x{W}  {W}x{H}, batch 2" in done.stdout
    assert "input   2 pictures" in done.stdout
    assert "found   2 images" in done.stdout
    assert "ran on  CPUExecutionProvider\n" in done.stdout
    assert f"wrote {tmp_path / 'output' / 'detections.json'}" in done.stdout


def test_nms_that_did_not_end_says_how_to_give_it_more_rounds(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--gin_bindings", "PredictConfig.rounds = 1"]  # two rounds must agree
    detect("--model", checkpoint, "--input", pictures, "--output", tmp_path / "output", *flags)
    said = capsys.readouterr().out
    assert (
        "was cut short after 1 round or 1,000 candidates; run it with --gin_bindings 'PredictConfig.rounds = 2'" in said
    )
    assert "'PredictConfig.candidates = 2000'" in said
    assert "export" not in said
    flags = ["--gin_bindings", "PredictConfig.nms = 'soft_linear'", "PredictConfig.candidates = 100"]
    detect("--model", checkpoint, "--input", pictures, "--output", tmp_path / "softly", *flags)
    said = capsys.readouterr().out
    assert "took 100 candidates of more; run it with --gin_bindings 'PredictConfig.candidates = 200'" in said


# ---- nothing half-written ----


def with_run(model: Model, error: BaseException) -> Model:
    """The model, whose second run fails."""
    runs = 0

    def fail_later(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> dict[str, NDArray[np.generic]]:
        nonlocal runs
        runs += 1
        if runs == 2:
            raise error
        return model.run(images, image_sizes)

    return replace(model, run=fail_later)


def test_interrupted_run_leaves_nothing(
    exports: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = task.open_model
    monkeypatch.setattr(
        task, "open_model", lambda *args, **flags: with_run(opened(*args, **flags), KeyboardInterrupt())
    )
    output = tmp_path / "new" / "output"
    assert run.main(["--model", str(exports), "--input", str(pictures), "--output", str(output), "--draw"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert entries(tmp_path) == []


def test_terminated_program_leaves_nothing(exports: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for i in range(5000):  # far more than it gets to
        os.link(pictures / "b.png", tmp_path / "many" / f"{i:04d}.png")
    command = [sys.executable, "-m", "infer.run", "--model", str(exports), "--input", str(tmp_path / "many"), "--draw"]
    program = subprocess.Popen([*command, "--output", str(tmp_path / "output")], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        while not list(tmp_path.glob("output/drawn/*.jpg")):
            assert program.poll() is None
            time.sleep(0.01)
        program.terminate()
        _, said = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 143
    assert b"stopped; nothing was written" in said
    assert entries(tmp_path) == ["many"]


def test_failure_to_write_leaves_what_was_there(
    exports: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(path: Path, image: object) -> None:
        raise InputError(f"cannot write {path}: No space left on device; free some space or write to another folder")

    monkeypatch.setattr(drawn_pictures, "write_drawn", no_space)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "notes.txt").write_text("mine")
    flags = ["--model", str(exports), "--input", str(pictures), "--output", str(tmp_path / "output"), "--draw"]
    assert "No space left on device" in tiny.refusal(run.main, flags, capsys)
    assert entries(tmp_path / "output") == ["notes.txt"]


def test_results_are_never_overwritten(
    whole: Path, exports: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "detections.json").read_bytes()
    flags = ["--model", str(exports), "--input", str(pictures), "--output", str(whole)]
    assert "already holds detections.json and summary.json and drawn" in tiny.refusal(run.main, flags, capsys)
    assert (whole / "detections.json").read_bytes() == before


# ---- bad input ----


@pytest.fixture(scope="module")
def useless(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, inputs and outputs that cannot be used."""
    folder = tmp_path_factory.mktemp("useless")
    onnx.save(tiny_graph("Relu"), folder / "foreign.onnx")
    content = next(exports.glob("*.onnx")).read_bytes()
    (folder / "half.onnx").write_bytes(content[: len(content) // 2])
    (folder / "empty").mkdir()
    (folder / "above").mkdir()
    write_pictures(folder / "above" / "below", SIZES[:1])
    (folder / "notes.txt").write_text("no picture")
    (folder / "clip.mp4").write_bytes(b"no video" * 100)
    (folder / "damaged").mkdir()
    for name in "ab":
        (folder / "damaged" / f"{name}.jpg").write_bytes(b"\xff\xd8 no more")
    return folder


@pytest.mark.parametrize(
    ("flag", "name", "said"),
    [
        ("--model", "nowhere.onnx", "nowhere.onnx: no such file, expected a model"),
        ("--model", "foreign.onnx", "foreign.onnx is no export of this project"),
        ("--model", "half.onnx", "half.onnx cannot be read as an .onnx"),
        ("--input", "empty", "empty holds nothing, expected at least one picture; check --input"),
        (
            "--input",
            "above",
            "holds no picture, expected at least one picture; got 1 folder not looked into: --recursive",
        ),
        ("--input", "*.jpg", "*.jpg matches nothing, expected at least one"),
        (
            "--input",
            "*.txt",
            "*.txt matches no picture, expected at least one picture; got 1 file of another kind (.txt)",
        ),
        ("--input", "nowhere", "nowhere: no such file or folder, expected pictures or a video"),
        ("--input", "x" * 300, "cannot be read (File name too long)"),
        ("--input", "clip.mp4", "clip.mp4 cannot be opened as a video"),
        ("--input", "damaged", "none of 2 could be read, nothing was written; the first: got a truncated file"),
        ("--output", "notes.txt/output", "cannot write "),
        ("--output", "x" * 300, "File name too long"),
    ],
)
def test_useless_files_are_told(useless: Path, refused: Callable[..., str], flag: str, name: str, said: str) -> None:
    before = entries(useless)
    assert said in refused(flag, useless / name, "--draw")
    assert entries(useless) == before
    assert (useless / "notes.txt").read_text() == "no picture"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--shard", "5/4"), "got --shard 5/4, expected i/n with i from 1 to n"),
        (("--shard", "0/4"), "got --shard 0/4"),
        (("--shard", "half"), "got --shard half"),
        (("--batch", "3"), "which takes exactly 2 at a time"),
        (("--batch", "0"), "got a batch of 0, expected at least 1"),
        (("--score", "30"), "got --score 30, expected 0 to 1"),
        (("--batch", "1000000000"), "got a batch of 1000000000, expected at most 65536"),
        (("--threads", "-1"), "got --threads -1, expected 0 to 1024"),
        (("--provider_options", "devise_id=0"), "did you mean device_id?"),
        (("--provider_options", "device_id"), "got --provider_options device_id, expected KEY=VALUE"),
        (("--provider", "cann"), "has only"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_flags_that_cannot_be(refused: Callable[..., str], flags: tuple[str, ...], said: str) -> None:
    assert said in refused(*flags)


def test_annotations_of_other_pictures(refused: Callable[..., str], tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "x/c.png"}, {"id": 3, "file_name": "y/c.png"}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    said = refused("--annotations", tmp_path / "coco.json")
    assert "coco.json does not name 7 of 8 pictures (c.png, d.png, e.png)" in said
    (tmp_path / "coco.json").write_text("{}")
    assert "coco.json: got the keys [], expected COCO annotations (an object with images)" in refused(
        "--annotations", tmp_path / "coco.json"
    )


@pytest.mark.parametrize("flags", [("--shard", "1/2"), ("--annotations", "coco.json")])
def test_flags_that_a_video_does_not_take(refused: Callable[..., str], tmp_path: Path, flags: tuple[str, str]) -> None:
    video = write_video(tmp_path / "clip.avi")
    assert f"got {' '.join(flags)} for a video, expected picture" in refused("--input", video, *flags)


# ---- parts ----


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_stated_pixels_are_read_off_the_header(tmp_path: Path, suffix: str) -> None:
    picture = PillowImage.new("RGB", (300, 200))
    exif = PillowImage.Exif()
    exif[0x010E] = "a long description " * 1000  # a segment before the size
    picture.save(tmp_path / f"a{suffix}", **({"exif": exif} if suffix == ".jpg" else {}))
    data = (tmp_path / f"a{suffix}").read_bytes()
    assert stated_pixels(data) == 60_000
    assert stated_pixels(data[:12]) == 0


def test_drawn_names_are_unique_on_every_file_system() -> None:
    names = [
        "a.png",
        "A.jpg",
        "a.png.jpg",
        "b.png",
        "c/b.png",
        "c_b.png",
        "é.png",
        f"{'x' * 300}.png",
        f"{'x' * 301}.png",
    ]
    chosen = drawn_names(names)
    assert len({name.casefold() for name in chosen}) == len(names)
    assert all(len(name) <= 60 and "/" not in name and name.endswith(".jpg") for name in chosen)
    assert (chosen[3], chosen[6]) == ("b.jpg", "é.jpg")


def test_picture_too_long_for_a_jpeg_is_drawn_smaller(tmp_path: Path) -> None:
    drawn_pictures.write_drawn(tmp_path / "a.jpg", np.zeros((4, 70_000, 3), np.uint8))
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (4, 65_500, 3)


def test_parts_join_to_the_whole(pictures: Path) -> None:
    whole = find_inputs(str(pictures))
    for count in (1, 3, 8, 11):
        parts = [whole.part(i, count) for i in range(1, count + 1)]  # type: ignore[union-attr]
        assert [source.name for part in parts for source in part] == [source.name for source in whole]
        assert max(part.total for part in parts) - min(part.total for part in parts) <= 1
