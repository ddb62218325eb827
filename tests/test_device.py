"""The device of a run: found by itself, or asked for and told what is missing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from gfl.autoload import NPU_ENVIRONMENT, SWITCH
from gfl.engine import device
from gfl.engine.device import choose_device, describe, expect_shapes, memory_bytes, seed_generators
from gfl.errors import InputError

CPU = torch.device("cpu")
OURS = torch.__version__.split("+")[0]


def npu_module(*, available: bool, calls: dict[str, object]) -> ModuleType:
    """What this project touches of torch_npu."""
    module = ModuleType("torch_npu")
    module.npu = SimpleNamespace(  # type: ignore[attr-defined]
        is_available=lambda: available,
        set_compile_mode=lambda **options: calls.update(options),
        config=SimpleNamespace(allow_internal_format=True),
        conv=SimpleNamespace(allow_hf32=True),  # its default
        matmul=SimpleNamespace(allow_hf32=False),
    )
    return module


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `choose_device` sets is taken back."""
    for variable in NPU_ENVIRONMENT:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


def with_npu(monkeypatch: pytest.MonkeyPatch, calls: dict[str, object] | None = None) -> ModuleType:
    module = npu_module(available=True, calls={} if calls is None else calls)
    monkeypatch.setitem(sys.modules, "torch_npu", module)
    monkeypatch.setattr(device.torch, "device", lambda *names: names)  # torch knows 'npu' only with torch_npu
    return module


def installed(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch_npu of this version were installed."""
    monkeypatch.setattr(device.metadata, "version", lambda name: version)


def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A torch_npu that fails while it is imported."""
    (tmp_path / "torch_npu.py").write_text(source)
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def test_cpu_is_the_cpu_and_touches_nothing_of_an_npu() -> None:
    assert choose_device("cpu") == CPU
    assert not set(NPU_ENVIRONMENT) & set(os.environ)
    assert "torch_npu" not in sys.modules


@pytest.mark.parametrize(
    ("available", "kind", "chosen"),
    [(False, "npu", "cpu"), (True, "cuda", "cuda"), (True, "mps", "cpu")],
    ids=["nothing", "cuda", "unknown to the recipe"],
)
def test_auto_is_the_accelerator_that_is_there(
    available: bool, kind: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a device torch may still name one that it was built for."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type=kind))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    assert choose_device("auto").type == chosen


def test_float32_on_cuda_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert choose_device("cuda") == torch.device("cuda")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)


def test_cudnn_tries_its_algorithms_where_shapes_are_fixed_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a canvas a picture it would try them on every new one."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    expect_shapes(CPU, fixed=True)
    assert not torch.backends.cudnn.benchmark
    for fixed in (True, False):
        expect_shapes(torch.device("cuda"), fixed=fixed)
        assert torch.backends.cudnn.benchmark is fixed


def test_auto_sets_up_the_npu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="npu"))
    module = with_npu(monkeypatch)
    assert choose_device("auto") == ("npu",)
    assert module.npu.conv.allow_hf32 is False


def test_cuda_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"DEVICE='cuda': no CUDA device was found; give DEVICE='auto'"):
        choose_device("cuda")


def test_npu_without_torch_npu_names_the_version_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    with pytest.raises(InputError, match=r"torch_npu cannot be imported .*; pip install torch-npu==2\.13\.0 "):
        choose_device("npu")


def test_npu_of_another_version_than_torch_is_told_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    installed("2.1.0.post3", monkeypatch)
    monkeypatch.setitem(sys.modules, "torch_npu", npu_module(available=True, calls={}))
    with pytest.raises(InputError, match=f"got torch_npu 2.1.0.post3 beside torch {OURS}, expected the same version"):
        choose_device("npu")


def test_later_build_of_the_same_version_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(f"{OURS}.post2", monkeypatch)
    with_npu(monkeypatch)
    assert choose_device("npu") == ("npu",)


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_npu_without_cann_says_what_to_source(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "libhccl.so: cannot open shared object file: No such file or directory"
    broken(tmp_path, monkeypatch, f"raise {error}('{reason}')")
    with pytest.raises(InputError, match=rf"cannot be imported \({reason}\); install CANN of the version "):
        choose_device("npu")


def test_npu_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", npu_module(available=False, calls={}))
    with pytest.raises(InputError, match="finds no NPU; check `npu-smi info`"):
        choose_device("npu")


def test_npu_is_told_its_environment_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str | None] = {}
    module = with_npu(monkeypatch)
    module.npu.is_available = lambda: seen.update({name: os.environ.get(name) for name in NPU_ENVIRONMENT}) or True
    choose_device("npu")
    assert seen == {
        "TASK_QUEUE_ENABLE": "2",
        "CPU_AFFINITY_CONF": "1",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    }


def test_environment_that_a_person_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "0")
    with_npu(monkeypatch)
    choose_device("npu")
    assert os.environ["TASK_QUEUE_ENABLE"] == "0"


def test_float32_on_an_npu_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_npu(monkeypatch)
    choose_device("npu")
    assert (module.npu.conv.allow_hf32, module.npu.matmul.allow_hf32) == (False, False)


def test_npu_runs_fixed_shapes_without_run_time_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, object] = {}
    module = with_npu(monkeypatch, calls)
    assert choose_device("npu") == ("npu",)
    assert calls == {"jit_compile": False}
    assert module.npu.config.allow_internal_format is False


@pytest.mark.parametrize(("threads", "told"), [(1, "cpu, 1 thread"), (2, "cpu, 2 threads")])
def test_cpu_is_described_by_its_threads(monkeypatch: pytest.MonkeyPatch, threads: int, told: str) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert describe(CPU) == told


def test_memory_on_a_cpu_is_the_peak_of_this_process() -> None:
    before = memory_bytes(CPU)
    taken = np.ones(64 * 2**20, np.uint8)
    after = memory_bytes(CPU)
    assert before is not None
    assert after is not None
    assert taken.nbytes < after
    assert 2**26 < before <= after < 2**40  # bytes, not kilobytes: PyTorch alone is larger than 64 MiB


def test_device_that_counts_no_memory_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace())
    assert memory_bytes(torch.device("cuda")) is None


def test_memory_is_the_peak_that_the_device_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(max_memory_allocated=lambda: 7))
    assert memory_bytes(torch.device("cuda")) == 7


@pytest.mark.parametrize("seed", [0, 2**40])
def test_seed_fixes_the_numbers_of_every_library(seed: int) -> None:
    draws = []
    for _ in range(2):
        seed_generators(seed)
        draws.append((random.random(), float(np.random.random()), float(torch.rand(()))))
    assert draws[0] == draws[1]


# ---- torch_npu beside a torch that would load it by itself ----


def install_torch_npu(folder: Path, version: str) -> dict[str, str]:
    """A torch_npu without CANN, as pip leaves it, and the environment in which it is found."""
    (folder / "torch_npu").mkdir()
    (folder / "torch_npu" / "__init__.py").write_text(
        "raise ImportError('libhccl.so: cannot open shared object file: No such file or directory')"
    )
    about = folder / f"torch_npu-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n")
    (about / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    root = Path(__file__).resolve().parents[1]
    kept = {key: value for key, value in os.environ.items() if key != SWITCH}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}


def choose_elsewhere(names: Sequence[str], environment: dict[str, str]) -> list[str]:
    """What a process of its own that imports gfl first is given for these devices, or told of them: a line each."""
    code = (
        "import sys\n"
        "from gfl.errors import InputError\n"
        "from gfl.engine.device import choose_device\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(choose_device(name))\n"
        "    except InputError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return (done.stdout + done.stderr).strip().splitlines()


def test_torch_npu_without_cann_is_one_sentence_not_a_traceback_of_torch(tmp_path: Path) -> None:
    """And the CPU is there as ever."""
    *told, cpu = choose_elsewhere(["npu", "auto", "cpu"], install_torch_npu(tmp_path, OURS))
    for name, said in zip(("npu", "auto"), told, strict=True):
        assert said.startswith(f"DEVICE='{name}': torch_npu cannot be imported (libhccl.so: cannot open")
        assert said.endswith("source its set_env.sh in this shell, or give DEVICE='cpu'")
    assert cpu == "cpu"


def test_torch_npu_of_another_version_is_one_sentence_not_a_traceback_of_torch(tmp_path: Path) -> None:
    (said,) = choose_elsewhere(["auto"], install_torch_npu(tmp_path, "2.1.0"))
    assert said.startswith(f"DEVICE='auto': got torch_npu 2.1.0 beside torch {OURS}, expected the same version")


@pytest.mark.parametrize(("program", "flag"), [("gfl.train", "--gin_file"), ("export.onnx", "--checkpoint")])
def test_programs_start_where_torch_npu_is_broken(program: str, flag: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", program, flag, str(tmp_path / "none.pt")]
    environment = install_torch_npu(tmp_path, OURS)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "none.pt" in done.stderr
