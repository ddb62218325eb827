"""`python -m export.to --precision int8`: where the ranges come from, what stays in float32, and what it may lose."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper
from onnxruntime import InferenceSession
from tiny_export import H, W, lying_exports, trained_flags

from export import to
from export.formats import FORMATS
from export.formats.interface import Conversion
from export.formats.litert_int8 import Operation, floating, pooled_over_zeros
from gfl import load
from gfl.data.synthetic import draw_scene
from gfl.runtime.onnx_file import describe_onnx


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (file,) = sorted(lying_exports(tmp_path_factory).glob("*.onnx"))
    return file


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folders = tmp_path_factory.mktemp("seen"), tmp_path_factory.mktemp("ranges")
    for folder, count in zip(folders, (3, 5), strict=True):
        for number in range(count):
            picture = draw_scene(seed=1, split="val2017", index=number, size_hw=(H, W)).image
            assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    return ["--images", str(folders[0]), "--calibration", str(folders[1]), "--precision", "int8"]


def run(name: str, model: Path, output: Path, *flags: str) -> int:
    return to.main(["--format", name, "--model", str(model), "--output", str(output), "--threads", "1", *flags])


def report_in(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("*.parity.json")
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_int8_takes_its_ranges_from_its_own_pictures_and_is_judged_by_its_ap(
    model: Path, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[Conversion] = []

    def scale_classes(job: Conversion) -> None:
        jobs.append(job)
        content = onnx.load(job.source)
        tensor = next(each for each in content.graph.initializer if each.name.endswith("gfl_cls.weight"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(scale), tensor.name))
        onnx.save(content, job.target)

    made_int8 = FORMATS["opencv"]._replace(precisions=("fp32", "int8"), convert=scale_classes)
    monkeypatch.setitem(FORMATS, "opencv", made_int8)
    scale = 1.0
    assert run("opencv", model, tmp_path / "good", *flags) == 0
    report, calibration = report_in(tmp_path / "good"), jobs[0].calibration
    assert report["calibration"] == [f"{number}.png" for number in range(5)]
    assert {str(Path(str(path)).parent) for path in calibration} == {flags[3]}
    about = json.loads((tmp_path / "good" / f"{model.name}.json").read_text())
    assert about["precision"] == "int8"
    assert about["digest"] not in ("", describe_onnx(model).digest)  # infer goes on with no job of another precision

    scale = 0.0
    assert run("opencv", model, tmp_path / "bad", *flags) == 1
    said = capsys.readouterr().err
    assert "may be lost" in said
    assert "--max_ap_drop" in said
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--precision", "int8"], "give --calibration DIR"),
        (["--calibration", "pictures"], "omit it, or give both"),
        (["--max_ap_drop", "0.1"], "omit it, or give a smaller --precision"),
        (["--precision", "int8", "--images", "val", "--max_ap_drop", "2"], "expected a share from 0 to 1"),
        (["--precision", "int8", "--images", "val"], "pip install 'gflv2[openvino-int8]'"),
    ],
)
def test_what_int8_lacks_is_told_in_one_sentence(
    model: Path,
    tmp_path: Path,
    words: list[str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(FORMATS, "openvino", FORMATS["openvino"]._replace(packages=()))
    monkeypatch.setitem(sys.modules, "nncf", None)
    command = ["--format", "openvino", "--model", str(model), "--output", str(tmp_path / "out"), *words]
    assert part in tiny.refusal(to.main, command, capsys)


def test_convolutions_that_no_other_follows_stay_in_float32() -> None:
    operations = [
        Operation("CAST", "pixels", (), (0,)),
        Operation("CONV_2D", "stem", (0,), (1,)),
        Operation("RELU", "relu", (1,), (2,)),
        Operation("MEAN", "mean", (2,), (3,)),
        Operation("CONV_2D", "tower", (2,), (4,)),
        Operation("ADD", "sum", (2, 4), (5,)),
        Operation("ADD", "mixed", (3, 5), (6,)),
        Operation("CONV_2D", "classes", (6,), (7,)),
        Operation("SOFTMAX", "scores", (7,), (8,)),
    ]
    assert floating(operations) == ["pixels", "mean", "mixed", "classes", "scores"]


def test_maxima_over_zeros_are_the_same_after_a_relu(model: Path, tmp_path: Path) -> None:
    pooled_over_zeros(model, tmp_path / "padded.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "padded.onnx").graph.node]
    assert operators.index("Pad") + 1 == operators.index("MaxPool")
    image = np.random.default_rng(0).integers(0, 256, (1, 3, H, W), dtype=np.uint8)
    feed = {"images": image, "image_sizes": np.array([[H, W]], np.int32)}
    ours, theirs = (InferenceSession(path).run(None, feed) for path in (tmp_path / "padded.onnx", model))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "litert"])
def test_what_an_installed_runtime_finds_in_int8(name: str, test_data: Path, tmp_path: Path) -> None:
    wanted = FORMATS[name]
    for package in (*wanted.packages, *wanted.int8_packages, wanted.runtime):
        pytest.importorskip(package)
    _, weights, *settings = trained_flags(test_data)
    bccd = test_data / "bccd"
    truth = ["--images", bccd / "val", "--annotations", bccd / "annotations" / "instances_val.json"]
    flags = [*settings, "--size", "256x320", *truth, "--calibration", bccd / "train", "--precision", "int8"]
    assert run(name, Path(weights), tmp_path / "out", *map(str, flags)) == 0
    report = report_in(tmp_path / "out")
    assert report["passed"] is True
    assert float(str(report["mb"])) < 11  # 13 MB in float32 at least
    assert "int8" in load(tmp_path / "out", threads=1).model.provider_report().provider
