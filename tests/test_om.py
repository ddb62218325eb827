"""The way to an .om and back, with stand-ins for what only a machine with CANN has: `atc`, and Ascend's ais_bench.

Neither was compared with the real thing: these tests hold our side to the documented surface of theirs.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from numpy.typing import NDArray
from tiny_onnx import BATCH, DESCRIPTION, H, W, write_onnx

from export import om as program
from gfl.errors import InputError
from gfl.runtime.description import DETECTION_NAMES
from gfl.runtime.om_file import open_om
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice

# Writes what it was asked for and where it was started to the .om, and as ATC does more into the working directory.
STAND_IN_FOR_ATC = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
flags = dict(argument.split("=", 1) for argument in sys.argv[1:])
Path("fusion_result.json").write_text("[]")
print("ATC run", os.environ.get("ATC_ENDS", "success"))
if "ATC_ENDS" in os.environ:
    sys.exit(int(os.environ["ATC_ENDS"]))
Path(flags["--output"] + os.environ.get("ATC_ADDS", "") + ".om").write_text(json.dumps(flags))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "best.onnx")


@pytest.fixture
def atc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "atc"
    script.write_text(STAND_IN_FOR_ATC)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def run(*arguments: object) -> int:
    return program.main([str(argument) for argument in arguments])


# ---- the command ----


def test_printed_command_is_that_of_the_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", model, "--soc_version", "Ascend910B4", "--print_only") == 0
    said = capsys.readouterr().out
    assert "'--input_shape=images:" in said  # quoted: a shell would end the command at the semicolon
    assert shlex.split(said) == [
        "atc",
        "--framework=5",
        f"--model={model}",
        f"--output={model.parent / 'best'}",
        "--input_format=ND",
        f"--input_shape=images:{BATCH},3,{H},{W};image_sizes:{BATCH},2",
        "--soc_version=Ascend910B4",
        "--precision_mode=allow_fp32_to_fp16",
    ]
    assert [path.name for path in model.parent.iterdir()] == ["best.onnx"]


def test_without_atc_the_command_is_printed_and_the_reason_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(model.parent))
    assert run("--model", model, "--soc_version", "Ascend310P3") == 2
    said = capsys.readouterr()
    assert said.out.startswith("atc --framework=5 ")
    assert said.err.startswith("error: got no `atc` on the PATH")
    assert said.err.count("\n") == 1
    assert [path.name for path in model.parent.iterdir()] == ["best.onnx"]


@pytest.mark.parametrize("added", ["", "_linux_aarch64"])
def test_compiling_leaves_the_file_and_its_description(
    added: str, model: Path, atc: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATC_ADDS", added)
    output = tmp_path / "npu" / "small.om"
    flags = ("--soc_version", "Ascend310P3", "--precision_mode", "must_keep_origin_dtype", "--output", output)
    assert run("--model", model, *flags) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == ["small.om", "small.om.json"]
    asked = json.loads(output.read_text())
    assert asked["--model"] == str(model)
    assert asked["--precision_mode"] == "must_keep_origin_dtype"
    assert asked["--output"].endswith("/small")
    about = json.loads((output.parent / "small.om.json").read_text())
    assert json.loads(about["names"]) == list(DESCRIPTION.names)
    assert json.loads(about["output_names"]) == list(DETECTION_NAMES)


def test_a_failed_compilation_leaves_nothing(
    model: Path, atc: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATC_ENDS", "255")
    assert run("--model", model, "--soc_version", "Ascend310P3") == 1
    assert "atc did not compile" in capsys.readouterr().err
    assert sorted(path.name for path in model.parent.iterdir()) == ["best.onnx", "bin"]


def test_files_that_atc_cannot_take_or_write_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(tmp_path / "int8.onnx", precision="int8")
    (tmp_path / "text.onnx").write_text("no protobuf")
    elsewhere = onnx.load(write_onnx(tmp_path / "elsewhere.onnx"))
    onnx.save(elsewhere, tmp_path / "elsewhere.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    dynamic = onnx.load(write_onnx(tmp_path / "dynamic.onnx"))
    dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(dynamic, tmp_path / "dynamic.onnx")
    del dynamic.metadata_props[:]
    onnx.save(dynamic, tmp_path / "foreign.onnx")
    for name, reason in {
        "int8": "QuantizeLinear and DequantizeLinear; export it with --precision fp32 or fp16",
        "absent": "no such file",
        "text": "cannot be read as an .onnx",
        "elsewhere": "takes weights from another file",
        "dynamic": "input images of no fixed shape",
        "foreign": "no export of this project",
    }.items():
        flags = ["--model", str(tmp_path / f"{name}.onnx"), "--soc_version", "Ascend310P3"]
        assert reason in tiny.refusal(program.main, flags, capsys)
    flags = ["--model", str(tmp_path / "int8.onnx"), "--soc_version", "Ascend310P3", "--output", "int8.onnx"]
    assert "ends in .om" in tiny.refusal(program.main, flags, capsys)


# ---- the file ----


class StandInForInferSession:
    """ais_bench's session as documented: arrays in, a list of arrays out; ours runs the .onnx beside the .om."""

    def __init__(self, device_id: int, model_path: str) -> None:
        if device_id != 0:
            raise RuntimeError(f"device {device_id} is not there")
        self.model = open_onnx(Path(model_path).with_suffix(".onnx"), threads=1)

    def infer(self, feeds: Sequence[NDArray[np.generic]], mode: str = "static") -> list[NDArray[np.generic]]:
        assert mode == "static"
        images, sizes = feeds
        assert images.flags.c_contiguous
        assert sizes.flags.c_contiguous
        return list(self.model.run(images.astype(np.uint8, copy=False), sizes.astype(np.int32, copy=False)).values())


@pytest.fixture
def om(model: Path, atc: None) -> Path:
    """An .om of the stand-in compiler, with its description."""
    assert run("--model", model, "--soc_version", "Ascend310P3") == 0
    return model.with_suffix(".om")


@pytest.fixture
def ais_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for Ascend's package."""
    interface = types.ModuleType("ais_bench.infer.interface")
    interface.InferSession = StandInForInferSession  # type: ignore[attr-defined]  # a module made by hand
    for name in ("ais_bench", "ais_bench.infer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)


def test_an_om_gives_its_outputs_by_name(om: Path, ais_bench: None) -> None:
    opened = open_om(om)
    assert opened.description == DESCRIPTION
    images = np.random.default_rng(0).integers(0, 256, (BATCH, H, W, 3)).astype(np.uint8).transpose(0, 3, 1, 2)
    sizes = np.tile(np.array([[H, W]], np.int32), (BATCH, 1))
    found = opened.run(images, sizes)
    expected = open_onnx(om.with_suffix(".onnx"), threads=1).run(images, sizes)
    assert list(found) == list(DETECTION_NAMES)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert opened.provider_report().provider == "Ascend OM"
    assert "never" in opened.provider_report().notes[0]


def test_without_ascends_package_the_reason_is_told(om: Path) -> None:
    with pytest.raises(InputError, match=r"needs Ascend's package ais_bench.*give the \.onnx"):
        open_om(om)


def test_an_absent_npu_is_told(om: Path, ais_bench: None) -> None:
    with pytest.raises(InputError, match=r"on NPU 3 \(device 3 is not there\)"):
        open_om(om, device_id=3)


def test_options_that_were_settled_by_the_compiler_are_refused(om: Path, ais_bench: None) -> None:
    assert open_model(om, choice=ProviderChoice("cann", options={"device_id": "0"})).batch == BATCH
    with pytest.raises(InputError, match="expected device_id alone"):
        open_model(om, choice=ProviderChoice("cann", options={"device_id": "0", "precision_mode": "force_fp32"}))


def test_an_om_without_its_description_is_refused(om: Path, ais_bench: None) -> None:
    beside = om.with_name("best.om.json")
    beside.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        open_om(om)
    beside.write_text("[]")
    with pytest.raises(InputError, match="does not describe"):
        open_om(om)
    beside.unlink()
    with pytest.raises(InputError, match=r"has no best\.om\.json beside it"):
        open_om(om)
    om.unlink()
    with pytest.raises(InputError, match="no such file"):
        open_om(om)
