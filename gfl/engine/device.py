"""The device of a run. The one file that names torch_npu, which is never imported unless an NPU is asked for."""

from __future__ import annotations

import importlib

import torch

from gfl.errors import InputError


def choose_device(name: str) -> torch.device:
    """'auto' | 'cpu' | 'cuda' | 'npu' -> the device, ready for use; InputError when it is not there."""
    if name == "npu":
        return _npu()
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("DEVICE='cuda': no CUDA device was found; give DEVICE='auto' or 'cpu', or check the driver")
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None:
            return torch.device("cpu")
        return _npu() if found.type == "npu" else found
    return torch.device(name)


def memory_bytes(device: torch.device) -> int | None:
    """Peak memory taken on the device so far; None where the device does not say."""
    return None if device.type == "cpu" else int(torch.get_device_module(device).max_memory_allocated())


def synchronise(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on the CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def describe(device: torch.device) -> str:
    """The device as a person names it, e.g. 'cpu, 2 threads'."""
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return f"{device} {torch.get_device_module(device).get_device_name()}"


def _npu() -> torch.device:
    try:
        torch_npu = importlib.import_module("torch_npu")
    except ImportError as error:
        raise InputError(
            f"DEVICE='npu': torch_npu cannot be imported ({error}); install CANN and the torch-npu of your torch's "
            f"version ({torch.__version__.split('+')[0]}), or give DEVICE='auto'"
        ) from error
    if not torch_npu.npu.is_available():
        raise InputError(
            "DEVICE='npu': torch_npu is installed but finds no NPU; check `npu-smi info` and CANN's setenv"
        )
    # Fixed shapes are compiled once, by the operators' own kernels: no run-time compilation, no private formats.
    torch_npu.npu.set_compile_mode(jit_compile=False)
    torch_npu.npu.config.allow_internal_format = False
    return torch.device("npu", torch_npu.npu.current_device())
