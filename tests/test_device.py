"""The device of a run: found by itself, or asked for and told what is missing."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from gfl.engine import device
from gfl.engine.device import choose_device, describe, memory_bytes, synchronise
from gfl.errors import InputError

CPU = torch.device("cpu")


def npu_module(*, available: bool, calls: dict[str, object]) -> ModuleType:
    """What this project touches of torch_npu."""
    module = ModuleType("torch_npu")
    module.npu = SimpleNamespace(  # type: ignore[attr-defined]
        is_available=lambda: available,
        current_device=lambda: 0,
        set_compile_mode=lambda **options: calls.update(options),
        config=SimpleNamespace(allow_internal_format=True),
    )
    return module


def test_cpu_is_the_cpu() -> None:
    assert choose_device("cpu") == CPU


def test_auto_is_the_cpu_where_there_is_nothing_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert choose_device("auto") == CPU


def test_auto_is_the_accelerator_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    assert choose_device("auto").type == "cuda"


def test_cuda_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"DEVICE='cuda': no CUDA device was found; give DEVICE='auto'"):
        choose_device("cuda")


def test_npu_without_torch_npu_names_the_version_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    with pytest.raises(InputError, match=r"torch_npu cannot be imported .* torch's version \(2\.13\.0\)"):
        choose_device("npu")


def test_npu_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", npu_module(available=False, calls={}))
    with pytest.raises(InputError, match="finds no NPU; check `npu-smi info`"):
        choose_device("npu")


def test_npu_runs_fixed_shapes_without_run_time_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, object] = {}
    module = npu_module(available=True, calls=calls)
    monkeypatch.setitem(sys.modules, "torch_npu", module)
    monkeypatch.setattr(device.torch, "device", lambda *names: names)  # torch knows 'npu' only with torch_npu
    assert choose_device("npu") == ("npu", 0)
    assert calls == {"jit_compile": False}
    assert module.npu.config.allow_internal_format is False


def test_torch_npu_is_not_imported_unless_asked_for() -> None:
    choose_device("cpu")
    assert "torch_npu" not in sys.modules


def test_cpu_is_described_by_its_threads_and_counts_no_memory() -> None:
    assert describe(CPU) == f"cpu, {torch.get_num_threads()} threads"
    assert memory_bytes(CPU) is None
    synchronise(CPU)
