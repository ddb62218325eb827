"""The sections of `python -m gfl.doctor` that need torch: devices, libraries, operators."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import torch

from gfl.doctor.installed import GIB
from gfl.engine.device import choose_device, describe
from gfl.engine.precision_choice import auto_precision
from gfl.errors import InputError
from gfl.operators.fake_step import step_ops
from gfl.operators.npu import COMPOSITE, KERNEL, npu_support

OTHER_THAN_CPU = ("cuda", "npu")
RUNS = (KERNEL, COMPOSITE)
# Dispatch keys of operators that are composed of other operators.
COMPOSITES = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")


def devices(asked: str) -> dict[str, object]:
    """The device that a run with DEVICE = `asked` would take, and the GPU and the NPU."""
    answers: dict[str, object] = {}
    for name in dict.fromkeys((asked, *OTHER_THAN_CPU)):
        try:
            device = choose_device(name)
            answers[name] = device_text(device)
            if name == asked:
                answers["PRECISION = 'auto'"] = "{0.used!r}: {0.reason}".format(auto_precision(device))
        except InputError as error:
            answers[name] = f"absent: {error}"
        except Exception as error:  # a driver or torch_npu that fails is what the report is for
            answers[name] = f"broken: {type(error).__name__}: {error}"
    return answers


def device_text(device: torch.device) -> str:
    """'cuda:0 NVIDIA H100, 78.1 of 79.6 GiB free, 1 device'."""
    if device.type == "cpu":
        return describe(device)
    module = torch.get_device_module(device)
    free, total = module.mem_get_info()
    return f"{describe(device)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {module.device_count()} in all"


def backends() -> dict[str, object]:
    """Libraries that torch was built with, threads, and what joins several devices."""
    has = torch.backends
    return {
        "threads": f"{torch.get_num_threads()} (OpenMP: {yes(has.openmp)}), {torch.get_num_interop_threads()} "
        "between operators",
        "mkldnn": yes(has.mkldnn),
        "mkl": yes(has.mkl),
        "cpu instructions": has.cpu.get_cpu_capability(),
        "cuda": str(torch.version.cuda or "not built in"),
        "cudnn": yes(has.cudnn),
        # gloo is for the CPU, nccl for CUDA, hccl for the NPU; a torch without torch.distributed has none
        "distributed": [
            name
            for name in ("gloo", "nccl", "hccl", "mpi", "ucc")
            if torch.distributed.is_available() and torch.distributed.is_backend_available(name)
        ],
    }


def operators(asked: str) -> dict[str, object]:
    """The operators of a training step, grouped by what the device does with them."""
    device = asked if asked != "auto" else choose_device("auto").type
    calls = Counter(op.name for op in step_ops())
    by_support: dict[str, list[str]] = {KERNEL: []}
    for name in sorted(calls):
        by_support.setdefault(support_on(device, name), []).append(name.removeprefix("aten::"))
    leaving = [name for kind, names in by_support.items() if kind not in RUNS for name in names]
    source = "the table of torch_npu 2.13.0" if device == "npu" else f"this torch, {torch.__version__}"
    return {
        "looked up": f"{len(calls)} operators in {calls.total()} calls of two steps (float32 and O1), for "
        f"{device} in {source}",
        **{f"{kind} ({len(names)})": names for kind, names in by_support.items()},
        "leaves the device": leaving or "nothing",
    }


def support_on(device: str, operator: str) -> str:
    """What a device does with an operator: for an NPU by the table, for others by torch's dispatcher."""
    if device == "npu":
        return npu_support(operator)
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if has_kernel(operator, device.upper()):
        return KERNEL
    if any(has_kernel(operator, key) for key in COMPOSITES):
        return COMPOSITE
    return f"no kernel for {device} in this torch"


def yes(library: ModuleType) -> str:
    """'no', or 'yes' with the version where there is one: whether torch can use one of its libraries."""
    if not library.is_available():
        return "no"
    version = getattr(library, "version", lambda: None)()
    return "yes" if version is None else f"yes, {version}"
