"""What PRECISION = 'auto' is on each kind of device, what a resumed run keeps, how ranks agree. No device is met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
import tiny
import torch

from gfl.config import read_run, read_text, with_setting
from gfl.engine import precision_choice
from gfl.engine.precision_choice import (
    Earlier,
    PrecisionChoice,
    agreed_precision,
    auto_precision,
    can_compute,
    choose_precision,
    earlier_precision,
    is_slow,
    native_bfloat16,
)
from gfl.engine.ranks import Ranks
from gfl.errors import InputError
from gfl.settings import OptimConfig, RunConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NPU = SimpleNamespace(type="npu")  # torch knows 'npu' only with torch_npu
SGD = OptimConfig()
Value = TypeVar("Value")


def asks(precision: str, **changes: object) -> RunConfig:
    return tiny.run_config(SGD, precision=precision, **changes)


def cpu_of(
    monkeypatch: pytest.MonkeyPatch, flags: Sequence[str], *, machine: str = "x86_64", mkldnn: bool = True
) -> None:
    """A CPU with these instructions, as torch names them; mkldnn: whether oneDNN is there and takes bfloat16 here."""
    monkeypatch.setattr(precision_choice.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch._C, "_has_mkldnn", mkldnn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn, raising=False)
    known = dict.fromkeys(("avx512_f", "avx512_bf16", "amx_bf16"), False) | dict.fromkeys(flags, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**known, "l2_cache_size": 1}, raising=False)


def gpu_of(monkeypatch: pytest.MonkeyPatch, *, native: bool, emulated: bool = True) -> None:
    """A GPU from Ampere on, or an older one."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or (emulated and including_emulation)
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Quadro RTX 8000")


def npu_of(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    module = SimpleNamespace(get_device_name=lambda: "Ascend310P3", **functions)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)


# ---- the device ----


@pytest.mark.parametrize(
    ("flags", "machine", "mkldnn", "name"),
    [
        (["avx512_f", "avx512_bf16"], "x86_64", True, "AVX512_BF16"),
        (["avx512_f", "avx512_bf16", "amx_bf16"], "AMD64", True, "AMX"),
        (["avx512_f"], "x86_64", True, ""),  # oneDNN takes bfloat16 here too, and converts it: slower than float32
        (["avx512_f", "avx512_bf16"], "x86_64", False, ""),
        ([], "aarch64", True, "Arm's BF16"),
        ([], "ARM64", True, "Arm's BF16"),
        ([], "arm64", False, ""),  # macOS: torch without oneDNN
    ],
    ids=["avx512_bf16", "amx", "avx512 alone", "no oneDNN", "arm", "arm on windows", "macos"],
)
def test_native_bfloat16_is_instructions_that_torch_can_use(
    flags: Sequence[str], machine: str, mkldnn: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_of(monkeypatch, flags, machine=machine, mkldnn=mkldnn)
    assert native_bfloat16() == name
    assert auto_precision(CPU).used == ("bf16" if name else "fp32")
    assert is_slow("bf16", CPU) == (not name)


def test_older_torch_says_less_of_the_cpu_and_linux_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu_of(monkeypatch, [])
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision_choice, "CPUINFO", cpuinfo)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert native_bfloat16() == "AVX512_BF16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert native_bfloat16() == ""  # Windows has no /proc/cpuinfo
    cpuinfo.write_text("model name\t: x\nflags\t\t: fpu avx512f amx_bf16 avx512_bf16\n\nflags\t\t: fpu\n")
    assert native_bfloat16() == "AMX"


def test_this_cpu_has_an_answer() -> None:
    chosen = auto_precision(CPU)
    assert chosen.used == ("bf16" if native_bfloat16() else "fp32")
    assert chosen.reason.startswith("this CPU has ")


def test_auto_on_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, native=True)
    assert auto_precision(CUDA) == PrecisionChoice("bf16", "this GPU multiplies bfloat16")
    gpu_of(monkeypatch, native=False)
    assert auto_precision(CUDA).used == "o1"
    assert is_slow("bf16", CUDA)
    assert not is_slow("o1", CUDA)
    assert auto_precision(NPU).used == "o1"  # type: ignore[arg-type]


# ---- a run ----


def test_precision_that_is_asked_by_name_is_taken_without_a_word() -> None:
    for precision in ("fp32", "o1", "bf16"):
        assert choose_precision(asks(precision), CPU) == PrecisionChoice(precision)  # type: ignore[arg-type]


def test_apex_does_o1_whatever_auto_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_of(monkeypatch, ["avx512_bf16"])
    chosen = choose_precision(asks("auto", apex=True), CPU)
    assert (chosen.used, chosen.reason) == ("o1", "APEX = True does it")


@pytest.mark.parametrize("began", ["fp32", "o1", "bf16"])
@pytest.mark.parametrize("flags", [[], ["avx512_bf16"]], ids=["fp32 here", "bf16 here"])
def test_resumed_run_keeps_what_auto_was_and_says_so(
    began: precision_choice.Precision, flags: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_of(monkeypatch, flags)
    here = auto_precision(CPU).used
    chosen = choose_precision(asks("auto"), CPU, Earlier("auto", began))
    assert (chosen.used, chosen.reason) == (began, "as the run began")
    said = [note for note in chosen.notes if f"would be {here!r} here" in note and f"goes on in {began!r}" in note]
    assert len(said) == len(chosen.notes) == (here != began)


@pytest.mark.parametrize(("asked", "before"), [("fp32", "auto"), ("auto", "fp32")])
def test_precision_that_is_given_on_resume_wins_and_is_said(
    asked: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'auto' too, where the run had named another."""
    cpu_of(monkeypatch, ["amx_bf16"])
    used: precision_choice.Precision = "bf16" if before == "auto" else "fp32"
    chosen = choose_precision(asks(asked), CPU, Earlier(before, used))
    now = "fp32" if asked == "fp32" else "bf16"
    assert chosen.used == now
    assert chosen.notes == (f"the run computes in {now!r} from here on, {used!r} until now",)


def test_resumed_run_that_changes_nothing_says_nothing() -> None:
    assert choose_precision(asks("bf16"), CPU, Earlier("bf16", "bf16")).notes == ()


def test_run_is_refused_where_the_device_does_not_compute_in_what_it_began_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu_of(monkeypatch, native=False, emulated=False)
    said = "the run that is resumed computes in 'bf16', which cuda:0 Quadro RTX 8000 cannot.*give PRECISION = 'o1'"
    with pytest.raises(InputError, match=said):
        choose_precision(asks("auto"), CUDA, Earlier("auto", "bf16"))
    with pytest.raises(InputError, match=r"got PRECISION = 'bf16' on cuda:0 Quadro RTX 8000, .* give PRECISION = 'o1'"):
        choose_precision(asks("bf16"), CUDA)
    gpu_of(monkeypatch, native=False)
    assert choose_precision(asks("auto"), CUDA, Earlier("auto", "bf16")).used == "bf16"  # emulated: kept


def test_npu_is_asked_for_bfloat16_where_it_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    npu_of(monkeypatch, is_bf16_supported=lambda: False)
    assert [can_compute(each, NPU) for each in ("fp32", "o1", "bf16")] == [True, True, False]  # type: ignore[arg-type]
    npu_of(monkeypatch)
    assert can_compute("bf16", NPU)  # type: ignore[arg-type]


# ---- several ranks ----


class TwoRanks(Ranks):
    """The first of two ranks, or the second; the other one's choice is known."""

    def __init__(self, rank: int, other: PrecisionChoice) -> None:
        super().__init__(rank)
        self.world, self.other = 2, other

    def gather_at_first(self, value: Value) -> list[Value]:
        return [value, self.other] if self.first else []  # type: ignore[list-item]

    def broadcast_from_first(self, value: Value | None) -> Value:
        return value if self.first else self.other  # type: ignore[return-value]


def test_ranks_compute_in_what_the_first_chooses_and_say_who_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_of(monkeypatch, [])
    other = PrecisionChoice("bf16", "this CPU has AMX")
    first = agreed_precision(asks("auto"), CPU, TwoRanks(0, other))
    assert first.used == "fp32"
    assert len(first.notes) == 1
    assert "would be 'bf16' on rank 1 (this CPU has AMX); all ranks compute in 'fp32'" in first.notes[0]
    assert agreed_precision(asks("auto"), CPU, TwoRanks(1, other)) == other


def test_rank_that_cannot_do_what_the_first_chooses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, native=False, emulated=False)
    with pytest.raises(InputError, match="got PRECISION = 'bf16' on cuda:0"):
        agreed_precision(asks("auto"), CUDA, TwoRanks(1, PrecisionChoice("bf16")))


# ---- what is written ----


def test_checkpoint_says_what_was_asked_and_what_was_used() -> None:
    text = read_run([tiny.GIN_FILE], ["PRECISION = 'auto'"]).config_text
    assert earlier_precision({"config": text, "precision": "bf16"}) == Earlier("auto", "bf16")
    assert earlier_precision({"config": text}) is None
    before_auto = read_run([tiny.GIN_FILE], ["PRECISION = 'o1'"]).config_text
    assert earlier_precision({"config": before_auto}) == Earlier("o1", "o1")


@pytest.mark.parametrize("binding", ["PRECISION = 'auto'", "RunConfig.precision = 'auto'"])
def test_operative_settings_name_the_precision_that_is_used(binding: str) -> None:
    parsed = read_run([tiny.GIN_FILE], [binding])
    text = with_setting(parsed.operative_text, "RunConfig", "precision", "bf16")
    settled = read_text(text).run
    assert settled.precision == "bf16"
    assert with_setting(text, "RunConfig", "precision", "auto") == parsed.operative_text
