"""The stubs that stand in for CANN, and what is said where they cannot be made."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import npu_trace
import pytest
from npu_trace import CannotSetUpError


def test_stubs_answer_as_one_device_with_memory(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source, library = tmp_path / "stubs.c", tmp_path / "stubs.so"
    names = {"aclInit", "aclrtGetDeviceCount", "aclrtMallocAlign32", "aclrtCreateStreamWithConfig"}
    source.write_text(npu_trace.stub_source(names))
    npu_trace.run(["cc", "-w", "-shared", "-fPIC", "-fno-builtin", str(source), "-o", str(library)])
    stubs = ctypes.CDLL(str(library))
    count, memory, stream = ctypes.c_uint(0), ctypes.c_void_p(None), ctypes.c_void_p(None)
    assert stubs.aclInit(None) == 0
    assert stubs.aclrtGetDeviceCount(ctypes.byref(count)) == 0
    assert stubs.aclrtMallocAlign32(ctypes.byref(memory), ctypes.c_ulong(64)) == 0
    assert stubs.aclrtCreateStreamWithConfig(ctypes.byref(stream)) == 0
    assert (count.value, bool(memory.value), bool(stream.value)) == (1, True, True)


def test_names_looked_up_are_those_of_the_runtime_and_no_operators(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(
        b"\\0aclrtMalloc\\0aclnnAdd\\0HcclSend\\0no\\0aclInit is missing\\0rtKernelLaunch\\0".replace(b"\\0", b"\0")
    )
    assert npu_trace.looked_up([library]) == {"aclrtMalloc", "HcclSend", "rtKernelLaunch"}


def test_system_without_a_wheel_skips_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert npu_trace.main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "npu-trace skipped: torch_npu has no wheel for darwin\n"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["no-such-program"], "there is no no-such-program here"),
        ([sys.executable, "-c", "raise OSError('no disk')"], "fails: OSError: no disk"),
    ],
)
def test_program_that_is_missing_or_fails_is_the_reason(command: list[str], told: str) -> None:
    with pytest.raises(CannotSetUpError, match=told):
        npu_trace.run(command)


@pytest.mark.slow  # it downloads torch_npu and traces fifteen times
def test_step_dispatches_through_torch_npu(tmp_path: Path) -> None:
    command = [sys.executable, npu_trace.__file__, "--folder", str(tmp_path / "venv")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "skipped" in said:
        pytest.skip(said.strip())
    first, *traces = said.splitlines()
    assert first.endswith("no device: dispatch alone is checked")
    assert len(traces) == 15
    assert all(line.endswith(" 0 violations") for line in traces)
