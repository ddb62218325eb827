"""The one function with effects: what a step changes, what it leaves alone, and what a saved state brings back."""

from __future__ import annotations

from copy import deepcopy

import pytest
import tiny
import torch
from tiny import assert_equal_bits, copy_of, make, make_batch, run_config
from torch import Tensor

from gfl.engine.state import Cursor, TrainState, averaged_leaves, restore, state_tree, step
from gfl.errors import InputError
from gfl.settings import OptimConfig

SGD = OptimConfig("sgd", weight_decay=1e-4)
ADAMW = OptimConfig("adamw", weight_decay=0.05, decay_vectors=False)
WITH_EMA = {"sgd": OptimConfig("sgd", ema=0.9), "adamw": OptimConfig("adamw", ema=0.9)}
RATE = 0.01
OVERFLOWS = 3e38  # as a loss scale: the scaled loss is infinite in float32


def gradients(state: TrainState, *seeds: int) -> dict[str, Tensor]:
    """The mean of the batches' gradients, each computed alone."""
    module, found = deepcopy(state.module), {}
    for seed in seeds:
        module(make_batch(seed))[0].backward()
        for path, parameter in module.named_parameters():
            assert parameter.grad is not None
            found[path] = found.get(path, 0.0) + parameter.grad.clone() / len(seeds)
        module.zero_grad()
    return found


def overflowing(cfg: OptimConfig, setting: float | str = 128.0) -> TrainState:
    """A state whose next step overflows, computing in float32."""
    state = make(run_config(cfg, precision="o1", loss_scale=setting))
    assert state.loss_scale is not None
    state.loss_scale.scale.fill_(OVERFLOWS)
    return state


# ---- a step ----


@pytest.mark.parametrize("cfg", [SGD, ADAMW, *WITH_EMA.values()], ids=["sgd", "adamw", "sgd_ema", "adamw_ema"])
@pytest.mark.parametrize("precision", ["fp32", "o1"])
def test_step_on_two_cloned_states_gives_equal_bits(cfg: OptimConfig, precision: str) -> None:
    one = make(run_config(cfg, precision=precision))
    step(one, [make_batch(1)], RATE, cfg)
    other = copy_of(one)
    metrics = [step(state, [make_batch(2)], RATE, cfg) for state in (one, other)]
    assert_equal_bits(*metrics)
    assert_equal_bits(state_tree(one), state_tree(other))
    assert one.cursor == other.cursor


@pytest.mark.parametrize("cfg", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_momentum_from_a_device_with_another_memory_format_goes_on(cfg: OptimConfig) -> None:
    """Weights are contiguous on an NPU and have channels last elsewhere; fused kernels walk momentum as the weights."""
    state = make(run_config(cfg))
    step(state, [make_batch(1)], RATE, cfg)
    saved = deepcopy(state_tree(state))
    for of_parameter in saved["optimiser"]["state"].values():  # type: ignore[index]
        of_parameter.update({name: value.contiguous() for name, value in of_parameter.items()})
    other = make(run_config(cfg))
    restore(other, saved)
    for each in (state, other):
        step(each, [make_batch(2)], RATE, cfg)
    assert_equal_bits(state_tree(state), state_tree(other))


def test_step_changes_every_trained_leaf_and_no_frozen_one() -> None:
    state = make(run_config(SGD, norm="frozen_bn"))
    before = tiny.tensors_of(state.module.leaves())
    step(state, [make_batch()], RATE, SGD)
    trained = {f"/{path}" for path, _ in state.module.named_parameters()}
    changed = {
        path for path, tensor in tiny.tensors_of(state.module.leaves()).items() if (tensor != before[path]).any()
    }
    # The last norm of a residual branch starts at zero, and so does the gradient of what lies before it in the branch.
    idle = {path for path in trained if ".conv1." in path or ".bn1." in path or ".conv2." in path}
    assert changed <= trained
    assert trained - changed <= idle
    step(state, [make_batch()], RATE, SGD)
    step(state, [make_batch()], RATE, SGD)
    now = tiny.tensors_of(state.module.leaves())
    assert {path for path in now if (now[path] != before[path]).any()} == trained


def test_step_gives_the_loss_and_its_parts_without_a_graph() -> None:
    state = make(run_config(SGD))
    total, parts = state.module(make_batch())
    metrics = step(state, [make_batch()], RATE, SGD)
    assert list(metrics) == ["loss", "qfl", "dfl", "giou", "skipped"]
    assert metrics["loss"].item() == total.item()
    assert metrics["giou"].item() == parts["giou"].item()
    assert not any(value.requires_grad for value in metrics.values())


def test_step_leaves_no_gradients_behind() -> None:
    state = make(run_config(SGD))
    step(state, [make_batch()], RATE, SGD)
    assert all(parameter.grad is None for parameter in state.module.parameters())


def test_sgd_step_is_the_formula_of_the_recipe() -> None:
    cfg = OptimConfig("sgd", momentum=0.9, weight_decay=0.1)
    state = make(run_config(cfg))
    expected = {path: parameter.detach().clone() for path, parameter in state.module.named_parameters()}
    velocity = {path: torch.zeros_like(parameter) for path, parameter in expected.items()}
    for seed in (1, 2):
        for path, gradient in gradients(state, seed).items():
            velocity[path] = 0.9 * velocity[path] + gradient + 0.1 * expected[path]
            expected[path] = expected[path] - RATE * velocity[path]
        step(state, [make_batch(seed)], RATE, cfg)
    for path, parameter in state.module.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[path], rtol=1e-5, atol=1e-7)


# ---- accumulation ----


@pytest.mark.parametrize("cfg", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_accumulating_a_batch_twice_is_one_step_on_it_bit_for_bit(cfg: OptimConfig) -> None:
    one, other = make(run_config(cfg)), make(run_config(cfg))
    step(one, [make_batch(1)], RATE, cfg)
    step(other, [make_batch(1), make_batch(1)], RATE, cfg)  # halves add up exactly
    assert_equal_bits(state_tree(one), state_tree(other))


def test_accumulated_gradient_is_the_mean_of_the_batches_own_gradients() -> None:
    plain = OptimConfig("sgd", momentum=0.0, weight_decay=0.0)
    state = make(run_config(plain))
    before = {path: parameter.detach().clone() for path, parameter in state.module.named_parameters()}
    expected = gradients(state, 1, 2)
    metrics = step(state, [make_batch(1), make_batch(2)], 1.0, plain)
    for path, parameter in state.module.named_parameters():
        torch.testing.assert_close(before[path] - parameter.detach(), expected[path], rtol=1e-4, atol=1e-6)
    module = make(run_config(plain)).module
    losses = [module(make_batch(seed))[0].item() for seed in (1, 2)]
    assert metrics["loss"].item() == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_accumulated_batches_are_each_divided_by_their_own_positives() -> None:
    """So 2 x 2 pictures are not 4: a part without boxes halves the box loss, and would not in one large batch."""
    full, empty = make_batch(1), make_batch(2)
    empty = empty._replace(box_mask=torch.zeros_like(empty.box_mask))
    together = type(full)(*(torch.cat(pair) for pair in zip(full, empty, strict=True)))
    state = make(run_config(SGD))
    joined = copy_of(state)
    alone = state.module(full)[1]["giou"].item()
    assert step(state, [full, empty], RATE, SGD)["giou"].item() == pytest.approx(alone / 2, rel=1e-6)
    assert step(joined, [together], RATE, SGD)["giou"].item() == pytest.approx(alone, rel=1e-5)


# ---- clipping ----


def test_clipping_bounds_the_norm_of_the_gradient_of_the_whole_step() -> None:
    cfg = OptimConfig("sgd", momentum=0.0, weight_decay=0.0, clip=0.01)
    state = make(run_config(cfg))
    before = [parameter.detach().clone() for parameter in state.module.parameters()]
    step(state, [make_batch(1), make_batch(2)], 1.0, cfg)
    moved = torch.cat([(old - new).flatten() for old, new in zip(before, state.module.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_clipping_above_the_norm_changes_nothing() -> None:
    one, other = make(run_config(SGD)), make(run_config(SGD))
    step(one, [make_batch()], RATE, SGD)
    step(other, [make_batch()], RATE, OptimConfig("sgd", weight_decay=1e-4, clip=1e6))
    assert_equal_bits(state_tree(one), state_tree(other))


def test_clipping_sees_the_gradient_without_the_loss_scale() -> None:
    cfg = OptimConfig("sgd", momentum=0.0, weight_decay=0.0, clip=0.01)
    plain, scaled = make(run_config(cfg)), make(run_config(cfg, precision="o1", loss_scale=1024.0))
    for state in (plain, scaled):
        step(state, [make_batch()], 1.0, cfg)
    for one, other in zip(plain.module.parameters(), scaled.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


# ---- averaged weights ----


def test_average_follows_the_weights_with_a_decay_that_warms_up() -> None:
    cfg = OptimConfig("sgd", ema=0.9)
    state = make(run_config(cfg))
    average = {path: parameter.detach().clone() for path, parameter in state.module.named_parameters()}
    for number in (1, 2, 3):
        step(state, [make_batch(number)], RATE, cfg)
        weight = 1.0 - 0.9 * (1.0 - 2.718281828459045 ** (-number / 200.0))
        for path, parameter in state.module.named_parameters():
            average[path] += weight * (parameter.detach() - average[path])
    for path, tensor in state.ema.items():
        torch.testing.assert_close(tensor, average[path], rtol=1e-5, atol=1e-7)


def test_average_under_a_loss_scale_is_that_without() -> None:
    cfg = WITH_EMA["sgd"]
    plain, scaled = make(run_config(cfg)), make(run_config(cfg, precision="o1", loss_scale=1.0))
    for state in (plain, scaled):
        step(state, [make_batch()], RATE, cfg)
    for path in plain.ema:
        torch.testing.assert_close(plain.ema[path], scaled.ema[path], rtol=1e-5, atol=1e-7)


def test_without_averages_the_weights_themselves_are_shipped() -> None:
    state = make(run_config(SGD))
    assert state.ema == {}
    assert_equal_bits(averaged_leaves(state), state.module.leaves())


def test_averages_stand_in_for_the_trained_leaves_only() -> None:
    cfg = run_config(WITH_EMA["sgd"], norm="frozen_bn")
    state = make(cfg)
    step(state, [make_batch()], RATE, cfg.optim)
    shipped = averaged_leaves(state)
    assert shipped.keys() == state.module.leaves().keys()
    assert_equal_bits({path: shipped[path] for path in state.ema}, state.ema)
    frozen = dict(state.module.named_buffers())
    assert_equal_bits({path: shipped[path] for path in frozen}, frozen)


# ---- the loss scale ----


def test_overflow_in_one_of_the_accumulated_batches_skips_the_step() -> None:
    state = make(run_config(SGD, precision="o1"))
    before = tiny.tensors_of(state.module.leaves())
    weight = next(state.module.parameters())
    calls = iter([1.0, float("inf")])
    weight.register_hook(lambda gradient: gradient * next(calls))
    assert step(state, [make_batch(1), make_batch(2)], RATE, SGD)["skipped"].item() == 1
    assert_equal_bits(tiny.tensors_of(state.module.leaves()), before)


def test_skipped_steps_are_counted_over_the_run() -> None:
    state = overflowing(SGD)
    assert [step(state, [make_batch()], RATE, SGD)["skipped"].item() for _ in range(2)] == [1, 2]
    assert state.loss_scale is not None
    state.loss_scale.scale.fill_(1.0)
    assert step(state, [make_batch()], RATE, SGD)["skipped"].item() == 2
    assert state.cursor.step == 3


def test_dynamic_scale_halves_on_overflow_and_a_static_one_stays() -> None:
    for setting, expected in (("dynamic", OVERFLOWS / 2), (128.0, OVERFLOWS)):
        state = overflowing(SGD, setting)
        step(state, [make_batch()], RATE, SGD)
        assert state.loss_scale is not None
        assert state.loss_scale.scale.item() == pytest.approx(expected)


# ---- saving and restoring ----


@pytest.mark.parametrize("norm", ["gn", "frozen_bn"])
@pytest.mark.parametrize("cfg", WITH_EMA.values(), ids=WITH_EMA)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("o1", marks=pytest.mark.slow)])
def test_restored_state_goes_on_as_the_saved_one(cfg: OptimConfig, norm: str, precision: str) -> None:
    settings = run_config(cfg, norm=norm, precision=precision, loss_scale="dynamic")
    state, other = make(settings), make(settings, seed=7)
    for seed in (1, 2):
        step(state, [make_batch(seed)], RATE, cfg)
    state.cursor.epoch, state.cursor.batch = 3, 4
    restore(other, deepcopy(state_tree(state)))
    assert other.cursor == Cursor(3, 4, 2)
    metrics = [step(each, [make_batch(3)], RATE, cfg) for each in (state, other)]
    assert_equal_bits(*metrics)
    assert_equal_bits(state_tree(state), state_tree(other))


def test_restored_momentum_takes_the_settings_of_now() -> None:
    state = make(run_config(SGD))
    step(state, [make_batch()], RATE, SGD)
    other = make(run_config(OptimConfig("sgd", weight_decay=0.5, momentum=0.8)))
    restore(other, deepcopy(state_tree(state)))
    assert [group["weight_decay"] for group in other.optimiser.param_groups] == [0.5, 0.5]
    assert other.optimiser.param_groups[0]["momentum"] == 0.8


def test_state_of_a_run_without_loss_scale_can_go_on_with_one() -> None:
    state, other = make(run_config(SGD)), make(run_config(SGD, precision="o1"))
    restore(other, deepcopy(state_tree(state)))
    assert other.loss_scale is not None
    assert other.loss_scale.scale.item() == 128.0


@pytest.mark.parametrize(
    ("saved", "now", "said"),
    [
        (run_config(SGD), run_config(SGD, norm="frozen_bn"), "nothing as variables backbone.layer2.0.bn1.weight"),
        (run_config(SGD), run_config(ADAMW), "another optimiser than AdamW"),
        (run_config(ADAMW), run_config(SGD), "another optimiser than SGD"),
        (run_config(SGD), run_config(WITH_EMA["sgd"]), "nothing as ema"),
    ],
    ids=["model", "adamw", "sgd", "ema"],
)
def test_state_of_another_run_is_refused(saved: object, now: object, said: str) -> None:
    tree = deepcopy(state_tree(make(saved)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        restore(make(now), tree)  # type: ignore[arg-type]


def test_state_is_plain_enough_for_a_load_that_runs_no_code(tmp_path: object) -> None:
    state = make(run_config(WITH_EMA["adamw"], precision="o1", loss_scale="dynamic"))
    step(state, [make_batch()], RATE, WITH_EMA["adamw"])
    path = f"{tmp_path}/state.pt"
    torch.save(state_tree(state), path)
    assert_equal_bits(torch.load(path, weights_only=True), state_tree(state))


# ---- compiled ----


@pytest.mark.parametrize("compile_it", [False, True])
def test_compile_setting_decides_what_a_step_calls(compile_it: bool) -> None:
    state = make(run_config(SGD, compile=compile_it))
    assert (state.forward is not state.module) == compile_it
    assert isinstance(state.forward, torch._dynamo.OptimizedModule) == compile_it
