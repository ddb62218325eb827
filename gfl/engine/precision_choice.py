"""What PRECISION = 'auto' is on a machine, which precisions its device computes in, and what a resumed run keeps.

A 16-bit precision is chosen only where the device multiplies it by instructions of its own: emulated, it is slower than
float32. On a CPU the convolutions are oneDNN's, so that a torch without it (macOS) has none to use.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import torch

from gfl.config import read_text
from gfl.engine.device import describe
from gfl.engine.ranks import Ranks
from gfl.errors import InputError
from gfl.settings import RunConfig

Precision: TypeAlias = Literal["fp32", "o1", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

AUTO: Final = "auto"
# The instructions of x86 that multiply bfloat16, as torch and Linux name them. AVX512 alone does not.
X86 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16"}
ARM = ("aarch64", "arm64")
CPUINFO = Path("/proc/cpuinfo")


class PrecisionChoice(NamedTuple):
    """The precision of a run."""

    used: Precision
    reason: str = ""  # why, in a short phrase for the head; empty where the settings name it
    notes: tuple[str, ...] = ()  # what a user should know of it, a sentence each


class Earlier(NamedTuple):
    """The precision of a run before it was stopped."""

    asked: str  # PRECISION
    used: Precision


# ---- the device ----


def native_bfloat16() -> str:
    """The instructions in which torch multiplies bfloat16 on this CPU, e.g. 'AMX'; empty where it has none."""
    # On x86 this is true of any AVX512, on Arm only where the CPU has the instructions.
    if not (torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return ""
    if platform.machine().lower() in ARM:
        return "Arm's BF16"
    flags = _x86_flags()
    return next((name for flag, name in X86.items() if flag in flags), "")


def _x86_flags() -> set[str]:
    """Those of X86 that this CPU has: as torch says, or where it is too old to say, as Linux does."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in torch 2.6
    if capabilities is not None:
        return {name for name, there in capabilities().items() if there is True}
    avx512_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if avx512_bf16 is not None and avx512_bf16():  # an x86 with AMX has it too
        return {"avx512_bf16"}
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if CPUINFO.is_file() else []
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def auto_precision(device: torch.device) -> PrecisionChoice:
    """What PRECISION = 'auto' is on a device, and why."""
    if device.type == "npu":
        return PrecisionChoice("o1", "every NPU multiplies float16")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return PrecisionChoice("bf16", "this GPU multiplies bfloat16")
        return PrecisionChoice("o1", "this GPU is older than Ampere, the first to multiply bfloat16")
    instructions = native_bfloat16() if device.type == "cpu" else ""
    if instructions:
        return PrecisionChoice("bf16", f"this CPU has {instructions}")
    return PrecisionChoice("fp32", "this CPU has no bfloat16 instructions that torch uses")


def is_slow(precision: str, device: torch.device) -> bool:
    """Whether the device only emulates the precision, so that float32 is faster."""
    if device.type == "cpu":
        return precision == "o1" or (precision == "bf16" and not native_bfloat16())
    return device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)


def can_compute(precision: str, device: torch.device) -> bool:
    """Whether the device computes in the precision at all; a CPU does in each of them."""
    if precision != "bf16" or device.type not in ("cuda", "npu"):
        return True
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)  # an old torch_npu cannot tell
    return supported is None or bool(supported())


# ---- the run ----


def choose_precision(cfg: RunConfig, device: torch.device, before: Earlier | None = None) -> PrecisionChoice:
    """The precision that a run computes in on this device. before: of the run that is resumed.

    A run that asked for 'auto' and still does keeps what it began with, so that its numbers go on as they were; what
    the settings name now wins over it. Raises InputError where the device cannot compute in it.
    """
    keeps = before is not None and before.asked == cfg.precision == AUTO and not cfg.apex
    if cfg.precision != AUTO:
        choice = PrecisionChoice(cfg.precision)
    elif cfg.apex:
        choice = PrecisionChoice("o1", "APEX = True does it")
    elif before is not None and keeps:
        choice = PrecisionChoice(before.used, "as the run began")
    else:
        choice = auto_precision(device)
    if not can_compute(choice.used, device):
        raise _refusal(choice.used, device, resumed=keeps)
    return choice._replace(notes=tuple(_changes(choice, auto_precision(device), before, keeps=keeps)))


def agreed_precision(
    cfg: RunConfig, device: torch.device, ranks: Ranks, before: Earlier | None = None
) -> PrecisionChoice:
    """As `choose_precision`, the first rank's choice on every rank: on the first it says where others differ.

    Raises InputError where a rank's device cannot compute in it.
    """
    own = choose_precision(cfg, device, before)
    every = ranks.gather_at_first(own)
    agreed = ranks.broadcast_from_first(own if ranks.first else None)
    if not can_compute(agreed.used, device):
        raise _refusal(agreed.used, device, resumed=False)
    notes = tuple(
        f"PRECISION = 'auto' would be {other.used!r} on rank {rank} ({other.reason}); all ranks compute in "
        f"{agreed.used!r}, as the first chooses"
        for rank, other in enumerate(every)
        if other.used != agreed.used
    )
    return agreed._replace(notes=agreed.notes + notes)


def earlier_precision(saved: Mapping[str, object]) -> Earlier | None:
    """The precision of the run that a last.pt is of; None where it does not say."""
    asked = read_text(str(saved["config"])).run.precision
    used = saved.get("precision", asked)  # absent before PRECISION = 'auto' was there to choose
    return next((Earlier(asked, precision) for precision in PRECISIONS if precision == used), None)


def _changes(choice: PrecisionChoice, here: PrecisionChoice, before: Earlier | None, *, keeps: bool) -> list[str]:
    """What a resumed run does differently from before, or from what 'auto' is on this machine (`here`)."""
    if before is None:
        return []
    if choice.used != before.used:
        return [f"the run computes in {choice.used!r} from here on, {before.used!r} until now"]
    if keeps and choice.used != here.used:
        return [
            f"PRECISION = 'auto' would be {here.used!r} here ({here.reason}); the run goes on in {choice.used!r}, as "
            f"it began, unless you give PRECISION = {here.used!r}"
        ]
    return []


def _refusal(precision: str, device: torch.device, *, resumed: bool) -> InputError:
    """The error for a precision that the device does not compute in."""
    other = auto_precision(device).used
    if resumed:
        return InputError(
            f"the run that is resumed computes in {precision!r}, which {describe(device)} cannot, expected a device as "
            f"before; go on there, or give PRECISION = {other!r} to go on in another precision"
        )
    return InputError(
        f"got PRECISION = {precision!r} on {describe(device)}, which does not compute in it, expected 'fp32' or 'o1'; "
        f"give PRECISION = {other!r}"
    )
