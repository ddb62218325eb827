"""The report for a bug: whole where all is well, and whole where something is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import refusal

from gfl.doctor import __main__ as doctor
from gfl.doctor import installed, torch_report
from gfl.doctor.installed import Package
from gfl.engine.device import describe
from gfl.operators.fake_step import step_ops
from gfl.operators.npu import CALLS_HOST, COMPOSITE, FALLS_BACK, KERNEL
from gfl.operators.trace import Op, OpTrace
from gfl.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = "operators of a training step"
Report = dict[str, dict[str, str | list[str]]]


@pytest.fixture(scope="module")
def ops() -> list[Op]:
    """What a training step dispatches, traced once for all tests."""
    return step_ops()


@pytest.fixture
def report(ops: list[Op], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Report]:
    """What --json prints for a device, when the step dispatches some operators more."""

    def run(device: str, more: Sequence[Op] = ()) -> Report:
        monkeypatch.setattr(torch_report, "step_ops", lambda: [*ops, *more])
        assert doctor.main(["--device", device, "--json"]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        found: Report = json.loads(said.out)
        return found

    return run


def names_of(section: dict[str, str | list[str]], kind: str) -> list[str]:
    """The operators listed as of a kind, whose count stands in the title."""
    (title,) = [title for title in section if title.startswith(f"{kind} (")]
    names = section[title]
    assert isinstance(names, list)
    assert title == f"{kind} ({len(names)})"
    return names


def test_report_holds_versions_machine_devices_and_torch(report: Callable[..., Report]) -> None:
    found = report("cpu")
    assert list(found) == ["versions", "machine", "beside packages", "devices", "torch", OPERATORS]
    assert str(found["versions"]["gfl"]).startswith(VERSION)
    assert found["versions"]["torch"] == torch.__version__
    assert "CPUExecutionProvider" in found["versions"]["onnxruntime providers"]
    assert "GiB" in str(found["machine"]["free disk"])
    assert found["devices"]["cpu"] == describe(torch.device("cpu"))
    assert str(found["devices"]["PRECISION = 'auto'"]).split(":")[0] in ("'fp32'", "'bf16'")
    assert "gloo" in found["torch"]["distributed"]
    assert not any("broken" in section for section in found.values())


def test_every_operator_of_the_step_has_a_kernel_on_the_cpu(report: Callable[..., Report]) -> None:
    section = report("cpu")[OPERATORS]
    assert section["leaves the device"] == "nothing"
    assert {"addmm", "topk", "_fused_sgd_"} <= set(names_of(section, KERNEL))
    assert "zeros_like" in names_of(section, COMPOSITE)  # written in terms of others


def test_every_operator_of_the_step_has_a_kernel_on_an_npu(report: Callable[..., Report], ops: list[Op]) -> None:
    section = report("npu")[OPERATORS]
    assert section["leaves the device"] == "nothing"
    listed = names_of(section, KERNEL) + names_of(section, COMPOSITE)
    assert {f"aten::{name}" for name in listed} == {op.name for op in ops}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there_is_told_and_the_report_is_whole(report: Callable[..., Report]) -> None:
    found = report("cuda")
    assert str(found["devices"]["cuda"]).startswith("absent: DEVICE='cuda': no CUDA device was found")
    assert "convolution" in str(found[OPERATORS])


def test_operators_that_leave_the_device_are_named(report: Callable[..., Report]) -> None:
    with OpTrace() as trace:
        F.huber_loss(torch.ones(3), torch.ones(3))
        torch.logit(torch.ones(3))
    section = report("npu", trace.ops)[OPERATORS]
    assert names_of(section, FALLS_BACK) == ["huber_loss"]
    assert names_of(section, CALLS_HOST) == ["logit"]
    assert sorted(section["leaves the device"]) == ["huber_loss", "logit"]


def test_step_is_traced_with_all_that_a_run_may_use(ops: list[Op]) -> None:
    names = {op.name for op in ops}
    scale = {"aten::_amp_foreach_non_finite_check_and_unscale_", "aten::_amp_update_scale_"}
    assert names >= {"aten::_fused_sgd_", "aten::_fused_adamw_", "aten::_foreach_lerp_.Scalar", *scale}
    assert {torch.float16, torch.float32} <= {dtype for op in ops for dtype in op.dtypes}


def test_text_says_what_the_json_says(report: Callable[..., Report], capsys: pytest.CaptureFixture[str]) -> None:
    found = report("npu")
    assert doctor.main(["--device", "npu"]) == 0
    words = capsys.readouterr().out.split()
    for title, section in found.items():
        assert set(title.split()) <= set(words)
        for name, answer in section.items():
            assert set(name.split()) <= set(words)
            if isinstance(answer, list):
                assert set(answer) <= {word.rstrip(",") for word in words}


def test_lines_fit_a_terminal() -> None:
    long = {"kernels": [f"aten::operator_{i}" for i in range(100)], "path": "x" * 300, "nothing": []}
    text = list(doctor.lines({"section": long}))
    assert [line for line in text if len(line) > doctor.WIDTH and "x" * 300 not in line] == []
    assert "  nothing  none" in text


def test_device_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(doctor.main, ["--device", "tpu"], capsys)
    assert said == "error: got --device 'tpu', expected auto, cpu, cuda or npu\n"


def test_section_that_fails_is_reported_as_broken() -> None:
    def fail() -> dict[str, object]:
        raise OSError("libcuda.so: cannot open\nmore")

    assert doctor.attempt(fail) == {"broken": "OSError: libcuda.so: cannot open"}


def test_report_is_made_where_torch_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('libhccl.so: cannot open shared object file')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "gfl.doctor"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "broken  RuntimeError: libhccl.so: cannot open shared object file" in done.stdout
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in done.stdout
    assert "free memory" in done.stdout
    assert done.stderr == ""


# ---- packages ----


def test_package_that_works_is_its_version() -> None:
    assert installed.state_of(Package("numpy", ("numpy",), "required")).replace(".", "").isdigit()


def test_package_that_is_absent_says_what_it_is_for() -> None:
    assert (
        installed.state_of(Package("no_such_part", ("no-such-part",), "optional: speed")) == "absent (optional: speed)"
    )


def test_package_that_is_broken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part.py").write_text("print('noise')\nraise OSError('libx.so: cannot open\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    state = installed.state_of(Package("broken_part", ("broken-part",), "required"))
    assert state == "version unknown, broken: OSError: libx.so: cannot open"


def test_package_may_have_another_build_or_two() -> None:
    assert str(installed.version_of(("no-such-build", "numpy"))).endswith(" (numpy)")
    assert " beside " in str(installed.version_of(("numpy", "torch")))
    assert installed.version_of(("no-such-build",)) is None


@pytest.mark.parametrize(
    ("folders", "kind"),
    [
        ((), "absent"),
        (("some_apex",), "version unknown, without amp"),
        (("some_apex", "some_apex/amp"), "version unknown, with amp"),
    ],
)
def test_apex_is_told_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...], kind: str
) -> None:
    """It is not imported: it would patch torch, or fail."""
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed.apex_kind("some_apex").startswith(kind)


def test_cann_is_told_by_the_file_of_its_installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert installed.cann_version().startswith("absent, or its set_env.sh not sourced")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert installed.cann_version() == f"version unknown, in {tmp_path}"
    (tmp_path / "aarch64-linux").mkdir()
    (tmp_path / "aarch64-linux" / "ascend_toolkit_install.info").write_text("package_name=x\nversion=8.3.RC1\n")
    assert installed.cann_version() == f"8.3.RC1 in {tmp_path}"


def test_tools_and_variables_beside_packages_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "atc").write_text("#!/bin/sh\n")
    (tmp_path / "atc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    found = installed.surroundings()
    assert found["atc"] == str(tmp_path / "atc")
    assert found["npu-smi"] == "absent (Ascend's driver)"
    assert "ASCEND_RT_VISIBLE_DEVICES=0,1" in found["variables"]  # type: ignore[operator]


def test_memory_is_a_number_of_gib() -> None:
    free, total = (float(word) for word in installed.free_memory().replace(" GiB", "").split(" of "))
    assert 0 < free <= total
