"""`python -m export.to`: what it writes, what it compares, and the sentences of its refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import tiny_onnx
from onnx import numpy_helper
from standin_openvino import StandinOpenvino
from tiny_export import H, W, lying_exports, write_model

from export import onnx as export_onnx
from export import to
from export import torch as export_torch
from export.formats import FORMATS
from export.formats.interface import Conversion
from export.sources import CPU
from gfl import load
from gfl.errors import InputError
from gfl.runtime.description import DETECTION_NAMES
from gfl.runtime.description_file import description_path, description_text, read_description
from gfl.runtime.finish import NO_SPREAD
from gfl.runtime.on_torch.pt2_file import open_program
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice
from infer.head import model_digest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (file,) = sorted(lying_exports(tmp_path_factory).glob("*.onnx"))
    return file


def run(name: str, model: Path, output: Path, *flags: object) -> int:
    words = ["--format", name, "--model", model, "--output", output, "--samples", 2, "--threads", 1, *flags]
    return to.main([str(word) for word in words])


def report_in(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("*.parity.json")
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_a_file_is_compared_in_its_own_runtime(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("opencv", model, tmp_path / "out") == 0
    report = report_in(tmp_path / "out")
    assert report["passed"] is True
    assert report["reference"] == "ONNX Runtime"
    assert float(str(report["matched"])) > 10
    assert float(str(report["ms"])) > 0
    said = capsys.readouterr().out
    for part in ("agrees with ONNX Runtime on 2 pictures", "AP of the file", "ms of ONNX Runtime", "note: "):
        assert part in said
    about = json.loads((tmp_path / "out" / f"{model.name}.json").read_text())
    for key, value in {entry.key: entry.value for entry in onnx.load(model).metadata_props}.items():
        assert about[key] == value
    picture = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load(tmp_path / "out")(picture).scores, load(model)(picture).scores)


def test_a_checkpoint_is_exported_first_in_the_form_that_the_format_takes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "opencv", FORMATS["opencv"]._replace(forms=("decoded",)))
    checkpoint = write_model(tmp_path / "run" / "best.pt")
    assert run("opencv", checkpoint, tmp_path / "out", "--size", f"{H}x{W}") == 0
    report = report_in(tmp_path / "out")
    assert (report["reference"], report["outputs"], report["passed"]) == ("PyTorch", "decoded", True)

    picture = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    expected, detect = load(model)(picture), load(tmp_path / "out")
    found = detect(picture)
    assert len(found.scores) > 10
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=1e-4)
    assert NO_SPREAD in detect.model.provider_report().notes


def test_a_file_that_finds_nothing_is_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_onnx.write_onnx(tmp_path / "best.onnx")
    content = onnx.load(path)
    count = next(tensor for tensor in content.graph.initializer if tensor.name == "ones")
    count.CopyFrom(numpy_helper.from_array(np.zeros(tiny_onnx.BATCH, np.int32), "ones"))
    onnx.save(content, path)
    monkeypatch.setitem(FORMATS, "opencv", FORMATS["opencv"]._replace(open=lambda path, _: open_onnx(path)))
    assert run("opencv", path, tmp_path / "out") == 1
    assert "boxes and NMS are unchecked; give --images" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [False, True])
def test_a_runtime_that_is_not_here_gives_a_file_that_was_not_run(
    model: Path, tmp_path: Path, missing: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing:
        monkeypatch.setitem(FORMATS, "opencv", FORMATS["opencv"]._replace(runtime="no_such_runtime"))
    assert run("opencv" if missing else "tensorrt", model, tmp_path / "out") == 0
    assert "converted, not run" in capsys.readouterr().out
    report = report_in(tmp_path / "out")
    assert report["passed"] is None
    assert "converted, not run" in str(report["not_run"])
    assert (tmp_path / "out" / model.name).read_bytes() == model.read_bytes()


def test_a_cpu_without_the_precision_gives_a_file_that_was_not_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", StandinOpenvino("FP32"))
    made = FORMATS["openvino"]._replace(packages=(), runtime="cv2", convert=FORMATS["opencv"].convert)
    monkeypatch.setitem(FORMATS, "openvino", made)
    assert run("openvino", model, tmp_path / "out", "--precision", "bf16") == 0
    assert "converted, not run: got precision=bf16 for OpenVINO" in capsys.readouterr().out
    assert report_in(tmp_path / "out")["passed"] is None


def test_each_canvas_of_a_folder_gives_a_file(tmp_path: Path) -> None:
    for name, size in (("small", (64, 96)), ("wide", (64, 128))):
        (tmp_path / "in").mkdir(exist_ok=True)
        tiny_onnx.write_onnx(tmp_path / "in" / f"{name}.onnx", size=size)
    assert run("tensorrt", tmp_path / "in", tmp_path / "out") == 0
    assert open_model(tmp_path / "out").canvases == ((64, 96), (64, 128))


@pytest.mark.slow
def test_a_format_that_is_made_of_a_pt2_gets_one_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of_pt2 = FORMATS["opencv"]._replace(source=".pt2", suffix=".pt2", forms=("decoded",), runtime="torch")
    monkeypatch.setitem(FORMATS, "opencv", made_of_pt2._replace(open=lambda path, _: open_program(path, choice=CPU)))
    checkpoint = write_model(tmp_path / "run" / "best.pt")
    assert run("opencv", checkpoint, tmp_path / "out", "--size", f"{H}x{W}") == 0
    report = report_in(tmp_path / "out")
    assert (report["passed"], report["reference"], report["outputs"]) == (True, "PyTorch", "decoded")
    assert run("opencv", next((tmp_path / "out").glob("*.pt2")), tmp_path / "again") == 0
    assert report_in(tmp_path / "again")["reference"] == "the .pt2 in PyTorch"


def test_a_file_that_finds_something_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(job: Conversion) -> None:
        content = onnx.load(job.source)
        tensor = next(each for each in content.graph.initializer if each.name.endswith("gfl_cls.weight"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.02), tensor.name))
        onnx.save(content, job.target)

    monkeypatch.setitem(FORMATS, "opencv", FORMATS["opencv"]._replace(convert=damage))
    assert run("opencv", model, tmp_path / "out") == 1
    assert "would not agree with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [RuntimeError("no disk left"), SystemExit("no disk left")])
def test_a_converter_that_fails_is_told_in_one_sentence(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job: Conversion) -> None:
        job.target.write_bytes(b"half of it")
        raise error

    monkeypatch.setitem(FORMATS, "opencv", FORMATS["opencv"]._replace(convert=fail))
    model = tiny_onnx.write_onnx(tmp_path / "best.onnx")
    assert run("opencv", model, tmp_path / "out") == 1
    assert capsys.readouterr().err == f"failed: opencv did not convert {model}:\n  no disk left\n"
    assert [path.name for path in tmp_path.iterdir()] == ["best.onnx"]


def test_files_of_two_models_are_not_converted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, digest, size in (("one", "1", (64, 96)), ("two", "2", (96, 64))):
        tiny_onnx.write_onnx(tmp_path / f"{name}.onnx", digest=digest, size=size)
    words = ["--format", "opencv", "--model", str(tmp_path), "--output", str(tmp_path / "out")]
    assert "are not exports of one model" in tiny.refusal(to.main, words, capsys)


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].packages])
def test_a_converter_that_is_missing_is_told_in_one_sentence(
    model: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in FORMATS[name].packages:
        monkeypatch.setitem(sys.modules, package, None)
    words = ["--format", name, "--model", str(model), "--output", str(tmp_path / "out")]
    assert f"pip install 'gflv2[{FORMATS[name].extra}]'{FORMATS[name].besides}" in tiny.refusal(to.main, words, capsys)


Make = Callable[[Path], Path]
REFUSALS: dict[str, tuple[Make, list[str], str]] = {
    "no such file": (lambda folder: folder / "no.onnx", [], "no such file"),
    "precision": (tiny_onnx.write_onnx, ["--precision", "bf16"], "expected one of fp32"),
    "int8": (
        lambda path: tiny_onnx.write_onnx(path, precision="int8"),
        [],
        "export it again with --outputs detections",
    ),
    "no pictures": (tiny_onnx.write_onnx, ["--annotations", "val.json"], "give --images DIR"),
    "samples": (tiny_onnx.write_onnx, ["--samples", "0"], "expected 1 or more"),
    "size": (tiny_onnx.write_onnx, ["--size", "64x96"], "got --size"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_converted_is_told_in_one_sentence(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, flags, part = REFUSALS[name]
    words = ["--format", "opencv", "--model", str(make(tmp_path / "best.onnx")), "--output", str(tmp_path / "out")]
    assert part in tiny.refusal(to.main, [*words, *flags], capsys)


# ---- the files, opened ----


def converted(folder: Path, suffix: str, precision: str = "fp32") -> Path:
    """A file with the surface of a converted one, and an .onnx inside."""
    path = tiny_onnx.write_onnx(folder / "best.onnx", precision=precision)
    about, names = tiny_onnx.DESCRIPTION, ("boxes", "scores", "labels", "count", "edge_std", "complete")
    path = path.rename(path.with_suffix(suffix))
    description_path(path).write_text(
        description_text(about.__class__(**{**vars(about), "precision": precision}), names)
    )
    return path


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16")])
def test_openvinos_own_file_is_computed_in_the_precision_it_was_made_for(
    tmp_path: Path, precision: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = StandinOpenvino("FP32", "BF16")
    monkeypatch.setitem(sys.modules, "openvino", runtime)
    path = converted(tmp_path, ".xml", precision)
    for where in (path, tmp_path):
        opened = open_model(where, threads=1)
        assert opened.provider_report().provider == f"OpenVINO CPU {hint}"
        assert runtime.settings[-1]["INFERENCE_PRECISION_HINT"] == hint
    asked = ProviderChoice("openvino", options={"precision": "f32"})
    assert open_model(path, choice=asked).provider_report().provider == "OpenVINO CPU f32"


@pytest.mark.parametrize(
    ("suffix", "package"),
    [(".xml", "openvino"), (".mnn", "MNN"), (".tflite", "ai-edge-litert"), (".param", "ncnn"), (".pte", "executorch")],
)
def test_a_runtime_that_is_missing_is_told_in_one_sentence(
    tmp_path: Path, suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("openvino", "MNN.nn", "ai_edge_litert.interpreter", "ncnn", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, module, None)
    path = converted(tmp_path, suffix)
    with pytest.raises(InputError, match=f"needs the package {package}"):
        open_model(path)
    with pytest.raises(InputError, match="its own runtime runs on the CPU"):
        open_model(path, choice=ProviderChoice("cuda"))
    description_path(path).unlink()
    with pytest.raises(InputError, match=f"best{suffix}.json beside it"):
        open_model(path)


@pytest.mark.parametrize("suffix", [".xml", ".param"])
def test_weights_beside_a_file_are_of_another_model(tmp_path: Path, suffix: str) -> None:
    path = converted(tmp_path, suffix)
    digests = set()
    for weights in (b"first", b"other"):
        path.with_suffix(".bin").write_bytes(weights)
        digests |= {model_digest(path), model_digest(tmp_path)}
    assert len(digests) == 2
    description_path(path).write_text("{}")
    assert model_digest(path) not in digests


@pytest.mark.parametrize("suffix", [".xml", ".param", ".tflite"])
def test_files_that_do_not_belong_together_are_not_opened(tmp_path: Path, suffix: str) -> None:
    path = converted(tmp_path, suffix)
    weights = path.with_suffix(".bin")
    weights.write_bytes(b"first")
    content = description_text(tiny_onnx.DESCRIPTION, DETECTION_NAMES, [path, weights])
    description_path(path).write_text(content)
    assert read_description(path, "").output_names == DETECTION_NAMES
    for file, change in ((weights, b"other"), (path, path.read_bytes()[:-1])):
        whole = file.read_bytes()
        file.write_bytes(change)
        with pytest.raises(InputError, match=f"{file.name} is missing, damaged or of another model"):
            open_model(path)
        file.write_bytes(whole)
    for names in ("5", "boxes", '["boxes"', "[1]", ["boxes"]):
        description_path(path).write_text(json.dumps({**json.loads(content), "output_names": names}))
        with pytest.raises(InputError, match=f"{path.name}.json (does not describe|cannot be read)"):
            open_model(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [(each.name, form) for each in FORMATS.values() if each.packages and each.open for form in each.forms],
)
def test_what_an_installed_runtime_finds(name: str, form: str, tmp_path: Path) -> None:
    for package in (*FORMATS[name].packages, FORMATS[name].runtime):
        pytest.importorskip(package)
    checkpoint, source = write_model(tmp_path / "run" / "best.pt"), tmp_path / f"best{FORMATS[name].source}"
    flags = ["--checkpoint", checkpoint, "--size", f"{H}x{W}", "--output", source, "--outputs", form, "--skip_parity"]
    program = export_torch if source.suffix == ".pt2" else export_onnx
    assert program.main([str(flag) for flag in flags]) == 0
    assert run(name, source, tmp_path / "out") == 0
    report = report_in(tmp_path / "out")
    assert report["passed"] is True
    picture = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    found, expected = load(tmp_path / "out", threads=1)(picture), load(source)(picture)
    assert len(found.scores) == len(expected.scores) > 10
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-4)
