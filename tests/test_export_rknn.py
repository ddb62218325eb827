"""Rockchip's format: what is built of an export and what its simulator says, with a stand-in and with the toolkit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from made_once import made_once
from numpy.typing import NDArray
from tiny_export import H, W, export, write_model

from export import to
from export.formats.float_graph import float_inputs
from gfl import load
from gfl.errors import InputError


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        checkpoint = write_model(folder.with_name("raw_run") / "best.pt")
        flags = ["--size", f"{H}x{W}", "--outputs", "raw", "--output", folder / "best.onnx", "--skip_parity"]
        export("--checkpoint", checkpoint, *flags)

    return made_once(tmp_path_factory, "raw_export", make) / "best.onnx"


def words(model: Path, output: Path) -> list[str]:
    return ["--format", "rknn", "--model", str(model), "--output", str(output), "--samples", "2", "--threads", "1"]


class StandinToolkit:
    """Computes with ONNX Runtime what it is given; refuses uint8 inputs, as the toolkit does."""

    failing = ""  # the step that ends badly
    factor = 1.0  # of its outputs

    def __init__(self, verbose: bool) -> None:
        self.session: onnxruntime.InferenceSession | None = None

    def config(self, target_platform: str, custom_string: str) -> int:
        assert (target_platform, len(custom_string)) == ("rk3588", 64)
        return 0

    def load_onnx(self, model: str) -> int:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return 0

    def build(self, do_quantization: bool) -> int:
        if self.failing == "raise":
            raise ValueError("Traceback (most recent call last):\n  File ...\nAttributeError: no mapping\n")
        return -int(self.failing == "build" or do_quantization)

    def export_rknn(self, export_path: str) -> int:
        Path(export_path).write_bytes(b"RKNN")
        return 0

    def init_runtime(self) -> int:
        return 0

    def inference(self, inputs: list[NDArray[np.float32]], data_format: list[str]) -> list[NDArray[np.float32]] | None:
        assert self.session is not None
        assert data_format == ["nchw", "nchw"]
        if self.failing == "inference":
            return None
        outputs = self.session.run(None, dict(zip(("images", "image_sizes"), inputs, strict=True)))
        return [output * np.float32(self.factor) for output in outputs]


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> type[StandinToolkit]:
    class Toolkit(StandinToolkit):
        pass

    package, api = ModuleType("rknn"), ModuleType("rknn.api")
    package.__spec__ = api.__spec__ = to.find_spec("json")
    api.RKNN = Toolkit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rknn", package)
    monkeypatch.setitem(sys.modules, "rknn.api", api)
    return Toolkit


def test_a_graph_of_float_inputs_gives_the_same_bits(raw: Path) -> None:
    model = onnx.load(raw)
    float_inputs(model)
    onnx.checker.check_model(model, full_check=True)
    assert not {node.op_type for node in model.graph.node if set(node.input) & {"images", "image_sizes"}} & {"Cast"}
    images = np.random.default_rng(0).integers(0, 256, (1, 3, H, W), dtype=np.uint8)
    sizes = np.array([[H - 9, W - 30]], np.int32)
    sides = []
    for content, dtypes in ((raw.read_bytes(), ("uint8", "int32")), (model.SerializeToString(), ("float32",) * 2)):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        sides.append(session.run(None, {"images": images.astype(dtypes[0]), "image_sizes": sizes.astype(dtypes[1])}))
    for left, right in zip(*sides, strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_the_simulator_finds_is_compared(raw: Path, tmp_path: Path, toolkit: type[StandinToolkit]) -> None:
    assert to.main(words(raw, tmp_path / "out")) == 0
    report = json.loads((tmp_path / "out" / "best.rknn.parity.json").read_text())
    assert (report["passed"], report["precision"]) == (True, "fp16")
    assert report["accuracy"]["file_ap"] == pytest.approx(1.0)
    assert json.loads((tmp_path / "out" / "best.rknn.json").read_text())["precision"] == "fp16"
    for path in (tmp_path / "out", tmp_path / "out" / "best.rknn"):
        with pytest.raises(InputError, match="is for Rockchip's NPU"):
            load(path)


FAILURES = {
    "raise": "AttributeError: no mapping",
    "build": "its steps ended with (0, 0, -1, 0, 0)",
    "inference": "fails in Rockchip's simulator",
    "factor": "would not agree with best.onnx",
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_toolkit_leaves_no_file(
    raw: Path, tmp_path: Path, name: str, toolkit: type[StandinToolkit], capsys: pytest.CaptureFixture[str]
) -> None:
    toolkit.failing, toolkit.factor = name, -1.0 if name == "factor" else 1.0
    assert to.main(words(raw, tmp_path / "out")) == 1
    assert FAILURES[name] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["raw", "decoded"])
def test_the_toolkits_simulator_finds_the_same(tmp_path: Path, form: str) -> None:
    pytest.importorskip("rknn")
    flags = ["--size", f"{H}x{W}", "--outputs", form, "--output", tmp_path / "best.onnx", "--skip_parity"]
    export("--checkpoint", write_model(tmp_path / "run" / "best.pt"), *flags)
    # A process of its own, for the toolkit warns when it is imported and leaves folders behind when it ends.
    program = [sys.executable, "-m", "export.to", *words(tmp_path / "best.onnx", tmp_path / "out")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "best.rknn.parity.json").read_text())
    assert report["passed"] is True
    assert report["accuracy"]["file_ap"] == pytest.approx(1.0, abs=0.02)
