"""Too little memory of a device is told with what was too much, and with what helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from gfl import train
from gfl.engine.memory import memory_errors
from gfl.errors import InputError

SAID = (
    r"2 pictures of (64x96|96x64) at a time \(.*\); raise ACCUMULATE.*lower SHORT_SIDE or LONG_SIDE.*RECOMPUTE = True"
)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("NPU out of memory. Tried to allocate 20.00 MiB (NPU 0; 60.97 GiB total capacity)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_too_little_memory_is_told_in_a_sentence(error: Exception) -> None:
    with pytest.raises(InputError, match=SAID), memory_errors((64, 96), 2):
        raise error


def test_other_errors_are_bugs() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), memory_errors((64, 96), 2):
        raise RuntimeError("The size of tensor a must match")


@pytest.mark.parametrize("function", ["step", "predictor"])
def test_a_run_on_too_small_a_device_ends_in_a_sentence(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> object:
        raise ERRORS[1]

    data = tiny.write_data(tmp_path / "data")
    monkeypatch.setattr(train, function, full if function == "step" else lambda *_: full)
    said = tiny.refusal(train.main, tiny.train_arguments(data, tmp_path / "run"), capsys)
    assert "2 pictures of " in said
    assert "NPU out of memory" in said
