"""The device of a run. The one file that names torch_npu, which is never imported unless an NPU is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
from contextlib import suppress
from importlib import metadata
from types import ModuleType

import numpy as np
import torch

from gfl.autoload import NPU_ENVIRONMENT
from gfl.errors import InputError, first_line
from gfl.machine import status_bytes
from gfl.model.structures import Batch
from gfl.words import counted

SEED_LIMIT = 2**32  # NumPy takes no larger seed


def choose_device(name: str) -> torch.device:
    """The device called 'cpu', 'cuda', 'npu', or found for 'auto', ready for use; InputError when it is not there."""
    if name == "npu":
        return _npu(name)
    if name == "cuda":
        return _cuda()
    if name == "auto":
        if "torch_npu" not in sys.modules and importlib.util.find_spec("torch_npu") is not None:
            _import_torch_npu(name)  # see gfl/autoload.py
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if device is None or device.type not in ("cuda", "npu"):  # the recipe has been tried on no others
            return torch.device("cpu")
        return _npu(name) if device.type == "npu" else _cuda()
    return torch.device(name)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device; a copy from pinned memory goes on while the host works."""
    return Batch(*(part.to(device, non_blocking=True) for part in batch))


def expect_shapes(device: torch.device, *, fixed: bool) -> None:
    """Let cuDNN try its algorithms on each convolution once, where the shapes of all batches are known; else not."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = fixed


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, for libraries that may draw from them.

    The run itself has generators of its own, seeded by (seed, path of a weight) and (seed, epoch, image id).
    """
    random.seed(seed)
    np.random.seed(seed % SEED_LIMIT)
    torch.manual_seed(seed)


def memory_bytes(device: torch.device) -> int | None:
    """The device's peak memory in bytes, on a CPU that of this process; None where it cannot be known."""
    if device.type != "cpu":
        allocated = getattr(torch.get_device_module(device), "max_memory_allocated", None)
        return None if allocated is None else int(allocated())
    if peak_bytes := status_bytes("VmHWM"):  # the other count begins with the peak of the process that started this one
        return peak_bytes
    try:
        import resource  # late: not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kB but for macOS


def describe(device: torch.device) -> str:
    """The device as a person names it, e.g. 'cpu, 2 threads'."""
    if device.type == "cpu":
        return f"cpu, {counted(torch.get_num_threads(), 'thread')}"
    return f"{device} {torch.get_device_module(device).get_device_name()}"


def _cuda() -> torch.device:
    """The current CUDA device, without TF32, which would round the inputs of convolutions to 11 bits."""
    if not torch.cuda.is_available():
        raise InputError("DEVICE='cuda': no CUDA device was found; give DEVICE='auto' or 'cpu', or check the driver")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda")


def _npu(name: str) -> torch.device:
    """The current NPU, set up for fixed shapes and for float32 without rounding."""
    npu = _import_torch_npu(name).npu
    if not npu.is_available():
        raise InputError(
            f"DEVICE={name!r}: torch_npu is installed but finds no NPU; check `npu-smi info`, the driver and "
            "ASCEND_RT_VISIBLE_DEVICES, or give DEVICE='cpu'"
        )
    # Fixed shapes are compiled once, by the operators' own kernels: no run-time compilation, no private formats.
    npu.set_compile_mode(jit_compile=False)
    npu.config.allow_internal_format = False
    npu.conv.allow_hf32 = npu.matmul.allow_hf32 = False  # else float32 convolutions round their inputs to 11 bits
    return torch.device("npu")  # without an index: to ask for it would open the first NPU, and so on every rank


def _import_torch_npu(name: str) -> ModuleType:
    """The module torch_npu; InputError when it, CANN, or its version that fits torch is missing."""
    wanted = torch.__version__.split("+")[0]
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version("torch_npu")
        if version.split(".")[:3] != wanted.split(".")[:3]:
            raise InputError(
                f"DEVICE={name!r}: got torch_npu {version} beside torch {wanted}, expected the same version of both; "
                f"pip install torch-npu=={wanted}"
            )
    for variable, value in NPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        return importlib.import_module("torch_npu")
    except ModuleNotFoundError as error:
        raise InputError(
            f"DEVICE={name!r}: torch_npu cannot be imported ({error}); pip install torch-npu=={wanted} (the version of "
            "your torch) and pyyaml, or give DEVICE='cpu'"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:  # a shared library of CANN that is not found
        raise InputError(
            f"DEVICE={name!r}: torch_npu cannot be imported ({first_line(error)}); install CANN of "
            "the version that its release notes name, source its set_env.sh in this shell, or give DEVICE='cpu'"
        ) from error
