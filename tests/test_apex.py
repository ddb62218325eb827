"""APEX = True: what is asked of an Apex and kept of it, and the reasons to refuse one. Against `standin_apex`."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import standin_apex
import tiny
import torch
import torch.nn.functional as F
from standin_apex import Amp, AscendAmp, ForgetfulAmp
from tiny import assert_equal_bits, log_lines, make, make_batch, run_config, run_training, write_data

from gfl.engine.apex import ApexLossScale
from gfl.engine.state import TrainState, restore, state_tree, step, without_casts
from gfl.errors import InputError
from gfl.settings import OptimConfig, RunConfig
from gfl.tensors.precision import FP32, O1, policy_of

SGD = OptimConfig("sgd", weight_decay=1e-4, ema=0.9)
RATE = 0.01
WAY_OUT = "give APEX = False, and PRECISION = 'o1' runs the same recipe without Apex"
OVERFLOWS = 2.0**60  # as a loss scale: gradients are infinite in float16


def settings(**changes: object) -> RunConfig:
    return run_config(SGD, norm="frozen_bn", precision="o1", apex=True, **changes)


def with_apex(amp: Amp, monkeypatch: pytest.MonkeyPatch, **changes: object) -> TrainState:
    standin_apex.install(monkeypatch, amp)
    return make(settings(**changes))


def without_apex(**changes: object) -> TrainState:
    return make(run_config(SGD, norm="frozen_bn", precision="o1", **changes), policy=O1)


def refusal(amp: Amp, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(InputError) as caught:
        with_apex(amp, monkeypatch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A package called apex that is first to be found."""
    (folder / "apex").mkdir()
    (folder / "apex" / "__init__.py").write_text(source)
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


# ---- what is refused ----


def test_no_apex_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)
    with pytest.raises(InputError, match=f"APEX = True: no Apex is installed; {WAY_OUT}"):
        make(settings())


def test_apex_without_amp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, "")
    with pytest.raises(InputError, match=f"the installed package apex has no amp .*; {WAY_OUT}"):
        make(settings())


def test_apex_that_breaks_while_it_is_imported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, "from collections import session_factory")  # PyPI's apex wants a web framework
    with pytest.raises(InputError, match=f"apex cannot be imported \\(cannot import name .*; {WAY_OUT}"):
        make(settings())


def test_amp_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Amp, "scale_loss", property())  # raises AttributeError: as if it were not there
    assert "the installed apex.amp has no scale_loss; " + WAY_OUT in refusal(Amp(), monkeypatch)


def test_fault_of_the_weight_cache_is_found_by_trying_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(Amp(fault=True), monkeypatch)
    assert "fails at the second use of one weight (IndexError: tuple index out of range)" in said
    assert f"under torch {torch.__version__}; {WAY_OUT}" in said


def test_apex_that_casts_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"casts no convolution on cpu; {WAY_OUT}" in refusal(Amp(casts=False), monkeypatch)


def test_what_apex_itself_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    amp = Amp(refuses="Found param weight with type torch.FloatTensor, expected torch.npu.FloatTensor.\nUse npu.")
    said = refusal(amp, monkeypatch)
    assert (
        f"Apex refuses (Found param weight with type torch.FloatTensor, expected torch.npu.FloatTensor); {WAY_OUT}"
        in said
    )


@pytest.mark.parametrize(
    "changes", [{"precision": "fp32"}, {"precision": "bf16"}, {"precision": "o1", "compile": True}]
)
def test_apex_without_o1_or_with_a_compiler_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"APEX=True with PRECISION=.*: expected 'o1' and False.*or APEX = False"):
        run_config(SGD, apex=True, **changes)


def test_nothing_that_is_installed_with_the_project_is_called_apex() -> None:
    """PyPI's package of that name is another program."""
    assert "apex" not in (Path(__file__).resolve().parent.parent / "setup.py").read_text(encoding="utf-8").lower()


# ---- what is asked of it ----


def test_apex_gets_the_module_the_optimiser_o1_and_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    amp = Amp()
    state = with_apex(amp, monkeypatch, loss_scale="dynamic")
    assert amp.asked == {
        "models": state.module,
        "optimizers": state.optimiser,
        "opt_level": "O1",
        "loss_scale": "dynamic",
    }


def test_gradients_are_combined_where_initialize_takes_that(monkeypatch: pytest.MonkeyPatch) -> None:
    amp = AscendAmp()
    with_apex(amp, monkeypatch)
    assert amp.asked["combine_grad"] is True


def test_tree_stays_float32_under_apex() -> None:
    assert policy_of("o1", apex=True) == FP32
    assert policy_of("o1") == O1


def test_patches_cast_convolutions_and_products_to_half_and_the_rest_to_float(monkeypatch: pytest.MonkeyPatch) -> None:
    amp = Amp()
    state = with_apex(amp, monkeypatch)
    amp.seen.clear()
    state.forward(make_batch())
    assert (amp.seen["conv2d"], amp.seen["linear"]) == ({torch.float16}, {torch.float16})
    for name in ("group_norm", "interpolate", "sum", "log_softmax"):
        assert amp.seen.get(name, {torch.float32}) <= {torch.float32, torch.bool}, name


@pytest.mark.parametrize("loss_scale", [128.0, "dynamic"])
@pytest.mark.parametrize("kind", [Amp, AscendAmp])
def test_steps_under_apex_are_those_of_our_own_o1_bit_for_bit(
    kind: type[Amp], loss_scale: float | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dtypes written at the call sites are those that patches like Apex's arrive at."""
    own = without_apex(loss_scale=loss_scale)
    expected = [step(own, [make_batch(seed)], RATE, SGD) for seed in (1, 2, 3)]
    state = with_apex(kind(), monkeypatch, loss_scale=loss_scale)
    found = [step(state, [make_batch(seed)], RATE, SGD) for seed in (1, 2, 3)]
    assert_equal_bits(found, expected)
    assert_equal_bits(state.module.leaves(), own.module.leaves())
    assert_equal_bits(state.ema, own.ema)


@pytest.mark.parametrize("kind", [Amp, pytest.param(AscendAmp, marks=pytest.mark.slow)])
def test_accumulated_batches_are_unscaled_once_at_the_end(kind: type[Amp], monkeypatch: pytest.MonkeyPatch) -> None:
    own = without_apex()
    step(own, [make_batch(1), make_batch(2)], RATE, SGD)
    state = with_apex(kind(), monkeypatch)
    step(state, [make_batch(1), make_batch(2)], RATE, SGD)
    assert_equal_bits(state.module.leaves(), own.module.leaves())


def test_apex_that_loses_the_gradients_it_combined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = with_apex(ForgetfulAmp(), monkeypatch)
    step(state, [make_batch(1)], RATE, SGD)
    with pytest.raises(InputError, match=r"APEX = True: .*does not keep them there .*; give APEX = False, and PREC"):
        step(state, [make_batch(2)], RATE, SGD)


# ---- overflow ----


def changed(state: TrainState, before: dict[str, torch.Tensor]) -> list[str]:
    """What a step changed of parameters, momentum and averages."""
    now = tiny.tensors_of(state_tree(state))
    kept = [path for path in before if path.startswith(("/variables", "/ema", "/optimiser"))]
    return [path for path in kept if not torch.equal(now[path], before[path])]


@pytest.mark.parametrize("loss_scale", [128.0, "dynamic"])
@pytest.mark.parametrize("good_steps", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_overflow_under_apex_skips_the_step_and_counts_it(
    good_steps: int, loss_scale: float | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a static scale an Apex steps over no overflow by itself."""
    amp = Amp()
    state = with_apex(amp, monkeypatch, loss_scale=loss_scale)
    for seed in range(good_steps):
        step(state, [make_batch(seed)], RATE, SGD)
    before = tiny.tensors_of(state_tree(state))
    usual, amp.loss_scale = amp.loss_scale, OVERFLOWS
    assert step(state, [make_batch(5)], RATE, SGD)["skipped"].item() == 1
    assert changed(state, before) == []
    assert amp.loss_scale == (OVERFLOWS / 2 if loss_scale == "dynamic" else OVERFLOWS)
    amp.loss_scale = usual
    assert step(state, [make_batch(6)], RATE, SGD)["skipped"].item() == 1
    assert changed(state, before) != []


def test_step_that_apex_skips_by_itself_is_counted_although_all_gradients_are_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NPUs of the first generation saturate, and Apex reads their overflow flag."""
    amp = Amp()
    state = with_apex(amp, monkeypatch, loss_scale="dynamic")
    before = tiny.tensors_of(state_tree(state))
    usual = amp._unscale
    monkeypatch.setattr(amp, "_unscale", lambda: usual() or True)
    assert step(state, [make_batch()], RATE, SGD)["skipped"].item() == 1
    assert changed(state, before) == []


# ---- the rest of a run ----


def test_state_of_apex_comes_back_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    amp = Amp()
    state = with_apex(amp, monkeypatch, loss_scale="dynamic")
    amp.loss_scale = OVERFLOWS
    for seed in (1, 2):
        step(state, [make_batch(seed)], RATE, SGD)
    torch.save(state_tree(state), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert saved["loss_scale"]["apex"] == {"loss_scaler0": {"loss_scale": OVERFLOWS / 4, "unskipped": 0}}
    other_amp = Amp()
    with monkeypatch.context() as patches:
        other = with_apex(other_amp, patches, loss_scale="dynamic")
        restore(other, deepcopy(saved))
    assert other_amp.state_dict() == amp.state_dict()
    assert other.loss_scale is not None
    assert other.loss_scale.skipped.item() == 2


@pytest.mark.parametrize("to_apex", [True, False])
def test_run_can_go_on_with_and_without_apex_and_keeps_its_count(
    to_apex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, under = without_apex(), with_apex(Amp(), monkeypatch)
    before, after = (own, under) if to_apex else (under, own)
    assert before.loss_scale is not None
    before.loss_scale.skipped.fill_(3.0)
    restore(after, deepcopy(state_tree(before)))
    assert after.loss_scale is not None
    assert after.loss_scale.skipped.item() == 3
    assert own.loss_scale is not None
    assert own.loss_scale.scale.item() == 128.0


def test_casts_rest_while_a_run_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    state = with_apex(Amp(), monkeypatch)
    x = torch.ones(1, 1, 2, 2)
    with without_casts(state):
        assert F.conv2d(x, x).dtype == torch.float32
    assert F.conv2d(x, x).dtype == torch.float16
    with without_casts(without_apex()):
        pass


def test_gradients_stay_as_apex_left_them(monkeypatch: pytest.MonkeyPatch) -> None:
    state = with_apex(Amp(), monkeypatch)
    assert isinstance(state.loss_scale, ApexLossScale)
    gradient = torch.tensor([0.1, -3.0, 1e-30])
    state.loss_scale.unscale([kept := gradient.clone()])
    assert torch.equal(kept, gradient)


def test_program_trains_under_apex_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    amp = standin_apex.install(monkeypatch, Amp())
    data = write_data(tmp_path / "data")
    bindings = ("PRECISION = 'o1'", "APEX = True")
    whole = run_training(data, tmp_path / "run", *bindings, "MAX_STEPS = 2")
    assert "o1 by Apex, loss scale 128.0" in capsys.readouterr().out
    assert torch.load(whole / "last.pt", weights_only=True)["loss_scale"]["apex"] == amp.state_dict()
    run_training(data, whole, *bindings, "MAX_STEPS = 3", flags=["--resume"])
    assert [line["step"] for line in log_lines(whole) if "loss" in line] == [1, 2, 3]
