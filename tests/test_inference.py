"""A trained model in every form, as one function of pictures: `from gfl import load`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from tiny_export import assert_same_detections, evaluate_flags, paired_exports, write_model

import gfl
from export import torch as program_export
from gfl import evaluate, load
from gfl.data.picture_files import read_picture
from gfl.errors import InputError
from gfl.runtime.model import merge_reports
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice, ProviderReport
from gfl.runtime.result import PictureInfo, Result, result_of

H, W = tiny.CANVAS
LANDSCAPE_AND_PORTRAIT = [(70, 100), (100, 70), (64, 96), (40, 40), (300, 120)]  # height, width


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture(scope="module")
def forms(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as a checkpoint, and in its two canvases as .onnx and as .pt2."""
    folder = tmp_path_factory.mktemp("forms")
    arguments = ["--checkpoint", str(checkpoint), "--output", str(folder / "pt2"), "--batch", "2", "--samples", "1"]
    assert program_export.main(arguments) == 0
    return {"pt": checkpoint, "onnx": paired_exports(tmp_path_factory), "pt2": folder / "pt2"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    names = []
    for index, (height, width) in enumerate(LANDSCAPE_AND_PORTRAIT):
        name = str(folder / f"{index}.png")
        cv2.imwrite(name, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        names.append(name)
    return names


@pytest.fixture(scope="module")
def found(forms: dict[str, Path], files: list[str]) -> dict[str, list[Result]]:
    return {form: load(path, provider="cpu", threads=1)(files) for form, path in forms.items()}


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_every_form_gives_what_the_checkpoint_gives(form: str, found: dict[str, list[Result]]) -> None:
    assert sum(len(result) for result in found["pt"]) > 20
    for ours, theirs in zip(found[form], found["pt"], strict=True):
        assert ours.names == theirs.names
        assert ours.category_ids == theirs.category_ids
        assert (ours.source, ours.size_hw, ours.complete) == (theirs.source, theirs.size_hw, theirs.complete)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, rtol=0, atol=5e-3)
        np.testing.assert_allclose(ours.edge_std, theirs.edge_std, rtol=0, atol=5e-3)


def test_a_list_gives_what_its_pictures_give_one_by_one(forms: dict[str, Path], files: list[str]) -> None:
    detect = load(forms["onnx"], threads=1)
    for together, name in zip(detect(files), files, strict=True):
        alone = detect(name)
        assert alone.source == name
        np.testing.assert_allclose(alone.scores, together.scores, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(alone.labels, together.labels)


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_threads_that_begin_at_once_get_on_both_canvases_what_one_gets(
    form: str, forms: dict[str, Path], files: list[str]
) -> None:
    pictures = (files * 2)[:8]
    alone, shared = (load(forms[form], provider="cpu", threads=1) for _ in range(2))
    together = threading.Barrier(len(pictures))

    def detect(name: str) -> Result:
        together.wait(timeout=60)
        return shared(name)

    with ThreadPoolExecutor(len(pictures)) as pool:
        assert list(pool.map(detect, pictures)) == [alone(name) for name in pictures]


def test_an_array_gives_what_its_file_gives(forms: dict[str, Path], files: list[str]) -> None:
    detect = load(forms["pt"])
    from_array, from_file = detect(read_picture(Path(files[0]))), detect(files[0])
    np.testing.assert_array_equal(from_array.boxes_xyxy, from_file.boxes_xyxy)


def test_grey_arrays_are_taken_as_pictures_of_three_equal_channels(forms: dict[str, Path]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    detect = load(forms["pt"])
    np.testing.assert_array_equal(detect(grey).scores, detect(np.dstack([grey] * 3)).scores)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(3)],
    ids=["two channels", "empty", "a row"],
)
def test_other_arrays_are_refused(array: np.ndarray, forms: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"expected \(H,W\)"):
        load(forms["pt"])(array)


def test_boxes_are_in_pixels_of_the_original(forms: dict[str, Path], files: list[str]) -> None:
    for result in load(forms["pt"])(files):
        height, width = result.size_hw
        assert len(result)
        assert result.boxes_xyxy.min() >= 0
        assert (result.boxes_xyxy <= np.array([width, height, width, height]) + 1e-3).all()
        # Some box must reach beyond the resized picture where that is smaller than the original.
    largest = load(forms["pt"])(files[-1])
    assert largest.boxes_xyxy[:, 3].max() > W


def test_names_are_those_of_the_classes(forms: dict[str, Path], files: list[str]) -> None:
    detect = load(forms["onnx"])
    assert detect.names == ("circle", "square", "triangle", "star", "ring")
    result = detect(files[0])
    assert result.names == tuple(detect.names[label] for label in result.labels)


def test_results_go_to_coco_by_category_and_corner_and_size(found: dict[str, list[Result]]) -> None:
    result = found["pt"][0]
    rows = result.to_coco(image_id=7)
    assert [row["category_id"] for row in rows] == list(result.category_ids)
    x, y, w, h = rows[0]["bbox"]
    np.testing.assert_allclose([x, y, x + w, y + h], result.boxes_xyxy[0], rtol=0, atol=1e-4)
    assert {row["image_id"] for row in rows} == {7}


def test_drawing_changes_a_copy_where_something_was_found(found: dict[str, list[Result]], files: list[str]) -> None:
    result = found["onnx"][0]
    before = read_picture(Path(files[0]))
    drawn = result.draw(score=float(result.scores[0]))
    assert drawn.shape == before.shape
    assert (drawn != before).any()
    assert result.image is None  # one of several: its file is read again
    np.testing.assert_array_equal(result.picture(), before)
    np.testing.assert_array_equal(result.draw(score=1.1), before)


def test_labels_that_are_no_class_are_left_out(forms: dict[str, Path]) -> None:
    about = open_model(forms["onnx"]).description
    boxes = np.zeros((1, 3, 4), np.float32)
    arrays = {
        "boxes": boxes,
        "edge_std": boxes,
        "scores": np.array([[0.9, 0.8, 0.0]], np.float32),
        "labels": np.array([[len(about.names), 1, -1]], np.int32),
        "count": np.array([2], np.int32),
        "complete": np.array([1], np.int32),
    }
    result = result_of(arrays, 0, PictureInfo("a.jpg", (10, 10), (10, 10)), about)
    assert result.names == ("square",)
    with pytest.raises(InputError, match="not kept"):
        result.draw()


def test_a_checkpoint_takes_any_batch_and_a_static_file_its_own(forms: dict[str, Path], files: list[str]) -> None:
    assert open_model(forms["pt"], batch=3).batch == 3
    assert len(load(forms["pt"], batch=3)(files)) == len(files)
    with pytest.raises(InputError, match=r"got a batch of 3 .* takes exactly 2"):
        open_model(forms["onnx"], batch=3)
    with pytest.raises(InputError, match="expected at least 1"):
        open_model(forms["pt"], batch=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
@pytest.mark.parametrize("form", ["pt", "pt2"])
def test_pytorch_without_the_device_is_an_error_unless_the_cpu_may_stand_in(form: str, forms: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        open_model(forms[form], choice=ProviderChoice("cuda"))
    report = open_model(forms[form], choice=ProviderChoice("cuda", allow_fallback=True)).provider_report()
    assert report.provider == "PyTorch cpu"
    assert [note.split(":")[0] for note in report.notes] == ["provider cuda"]


@pytest.mark.parametrize("form", ["pt", "pt2"])
def test_options_that_pytorch_would_not_read_are_refused(form: str, forms: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="got the provider options device_id"):
        open_model(forms[form], choice=ProviderChoice("cuda", options={"device_id": "1"}))


def test_the_provider_of_a_folder_is_that_of_a_file_that_ran() -> None:
    tried, ran = (
        ProviderReport("CUDAExecutionProvider", {}, ()),
        ProviderReport("CPUExecutionProvider", {"CPU": 9}, ("a note",)),
    )
    assert merge_reports([tried, ran]) == ProviderReport("CPUExecutionProvider", {"CPU": 9}, ("a note",))
    assert merge_reports([tried, tried]) == tried


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_evaluation_takes_every_form(form: str, forms: dict[str, Path], tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data")
    for name in ("pt", form):
        flags = ["--checkpoint", str(forms[name]), "--output", str(tmp_path / name), *evaluate_flags(data)]
        assert evaluate.main(flags) == 0
    assert_same_detections(tmp_path / form, tmp_path / "pt")


def empty_folder(path: Path) -> Path:
    (path / "folder").mkdir()
    return path / "folder"


def run_folder(path: Path) -> Path:
    (path / "best.pt").write_bytes(b"")
    return path


def damaged_program(path: Path) -> Path:
    (path / "model.pt2").write_bytes(b"PK\x03\x04 nothing")
    return path / "model.pt2"


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: path / "model.onnx", "no such file"),
        (lambda path: path / "model.bin", "expected one of .pt, "),
        (lambda path: path / ("m" * 300 + ".onnx"), "no such file|cannot be looked at"),
        (empty_folder, "holds no exports"),
        (run_folder, "give .*best.pt"),
        (damaged_program, "cannot be read as a torch.export program"),
    ],
)
def test_what_is_no_model_is_told_in_one_sentence(make: Callable[[Path], Path], part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=part):
        load(make(tmp_path))


def test_a_program_of_another_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), path)
    with pytest.raises(InputError, match="no export of this project"):
        load(path)


def test_a_program_runs_without_the_model_code(forms: dict[str, Path], files: list[str]) -> None:
    code = (
        "import sys\nfrom gfl.runtime.providers import ProviderChoice\n"
        "sys.modules['gfl.model.detector'] = None\n"  # importing it would fail
        "from gfl.runtime.on_torch.pt2_file import open_program\nimport numpy as np\n"
        f"model = open_program(__import__('pathlib').Path({str(next(forms['pt2'].glob('*.pt2')))!r}))\n"
        "height, width = model.description.size\n"
        "found = model.run(np.zeros((2, 3, height, width), np.uint8), np.array([[height, width]] * 2, np.int32))\n"
        "print(sorted(found))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "boxes" in done.stdout


def test_an_onnx_needs_no_torch(forms: dict[str, Path], files: list[str]) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom gfl import load\n"
        f"print(len(load({str(forms['onnx'])!r})({files[0]!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_load_is_found_on_the_package_and_nothing_else_is() -> None:
    assert gfl.load is load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = gfl.lod
