"""The learning rate of every step, what the optimisers start from, and the arithmetic of the loss scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gfl.engine.optim import LossScale, learning_rate, make_optimiser, restore_optimiser
from gfl.errors import InputError
from gfl.settings import OptimConfig, RunConfig

CPU = torch.device("cpu")
PAPER = OptimConfig()  # lr 0.01 for 16 images, steps at 8 and 11, 500 warm-up steps from a thousandth
COSINE = OptimConfig(lr=0.01, schedule="cosine", warmup_steps=0)


def parameters() -> list[Tensor]:
    """A matrix, a vector and a scalar."""
    return [nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (3,), ())]


# ---- the learning rate ----


@pytest.mark.parametrize("step", [0, 1, 250, 499])
def test_warm_up_is_the_line_of_the_recipe(step: int) -> None:
    expected = 0.01 * (1 - (1 - step / 500) * (1 - 0.001))  # mmdetection: 500 steps from 0.001
    assert learning_rate(PAPER, 16, step, 0, 0.0) == pytest.approx(expected, rel=1e-12)


def test_warm_up_starts_at_its_share_and_ends_at_the_rate() -> None:
    assert learning_rate(PAPER, 16, 0, 0, 0.0) == pytest.approx(1e-5)
    assert learning_rate(PAPER, 16, 500, 0, 0.0) == 0.01


def test_without_warm_up_the_first_rate_is_the_full_one() -> None:
    assert learning_rate(OptimConfig(warmup_steps=0), 16, 0, 0, 0.0) == 0.01


@pytest.mark.parametrize(("epoch", "rate"), [(0, 1e-2), (7, 1e-2), (8, 1e-3), (10, 1e-3), (11, 1e-4), (12, 1e-4)])
def test_rate_falls_to_a_tenth_after_epochs_8_and_11(epoch: int, rate: float) -> None:
    assert learning_rate(PAPER, 16, 10_000, epoch, 0.5) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("cfg", [PAPER, COSINE], ids=["steps", "cosine"])
def test_rate_scales_linearly_with_the_images_of_a_step(batch_size: int, cfg: OptimConfig) -> None:
    at_16 = learning_rate(cfg, 16, 700, 3, 0.3)
    assert learning_rate(cfg, batch_size, 700, 3, 0.3) == pytest.approx(at_16 * batch_size / 16, rel=1e-12)


@pytest.mark.parametrize("final_lr", [0.0, 0.05])
def test_cosine_goes_from_the_rate_to_its_share(final_lr: float) -> None:
    cfg = OptimConfig(lr=0.01, schedule="cosine", warmup_steps=0, final_lr=final_lr)
    rates = [learning_rate(cfg, 16, 9, 0, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    shares = [1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, 0.0]
    assert rates == pytest.approx([0.01 * (final_lr + (1 - final_lr) * share) for share in shares], abs=1e-15)


def test_cosine_stays_at_its_end_beyond_the_end() -> None:
    cfg = OptimConfig(lr=0.01, schedule="cosine", warmup_steps=0, final_lr=0.1)
    assert learning_rate(cfg, 16, 9, 0, 1.2) == pytest.approx(0.001)


def test_warm_up_multiplies_the_cosine() -> None:
    cfg = OptimConfig(lr=0.01, schedule="cosine", warmup_steps=10, warmup_start=0.0)
    assert learning_rate(cfg, 16, 5, 0, 0.5) == pytest.approx(0.01 * 0.5 * 0.5)


# ---- the optimisers ----


@pytest.mark.parametrize(("decay_vectors", "of_vectors"), [(True, 0.3), (False, 0.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_vectors_only_when_asked(optimizer: str, decay_vectors: bool, of_vectors: float) -> None:
    cfg = OptimConfig(optimizer, weight_decay=0.3, decay_vectors=decay_vectors)
    groups = make_optimiser(cfg, parameters()).param_groups
    assert [[parameter.ndim for parameter in group["params"]] for group in groups] == [[2], [1, 0]]
    assert [group["weight_decay"] for group in groups] == [0.3, of_vectors]


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimisers_are_torchs_fused_ones(optimizer: str, kind: type) -> None:
    optimiser = make_optimiser(OptimConfig(optimizer), parameters())
    assert type(optimiser) is kind
    assert all(group["fused"] for group in optimiser.param_groups)


def test_parameters_of_one_kind_alone_are_no_trouble() -> None:
    assert len(make_optimiser(OptimConfig(), parameters()[:1]).param_groups) == 1


def test_momentum_is_there_as_zeros_before_the_first_step() -> None:
    own = parameters()
    optimiser = make_optimiser(OptimConfig("sgd"), own)
    assert all(torch.equal(optimiser.state[each]["momentum_buffer"], torch.zeros_like(each)) for each in own)


def test_momentum_keeps_the_memory_format_of_its_weight() -> None:
    weight = nn.Parameter(torch.ones(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    buffer = make_optimiser(OptimConfig("sgd"), [weight]).state[weight]["momentum_buffer"]
    assert buffer.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("saved", "now"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_state_of_another_optimiser_is_refused(saved: str, now: str) -> None:
    state = make_optimiser(OptimConfig(saved), parameters()).state_dict()
    with pytest.raises(InputError, match="take the change back"):
        restore_optimiser(make_optimiser(OptimConfig(now), parameters()), state)


# ---- the loss scale ----


def test_unscaling_divides_and_notices_nothing_in_finite_gradients() -> None:
    scale = LossScale(4.0, CPU)
    gradients = [torch.tensor([8.0, -4.0]), torch.tensor(2.0)]
    scale.unscale(gradients)
    assert [gradient.tolist() for gradient in gradients] == [[2.0, -1.0], 0.5]
    assert (scale.found_inf.item(), scale.skipped.item()) == (0, 0)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_unscaling_notices_one_bad_number_and_forgets_it_the_next_time(bad: float) -> None:
    scale = LossScale(4.0, CPU)
    scale.unscale([torch.ones(3), torch.tensor([1.0, bad])])
    assert (scale.found_inf.item(), scale.skipped.item()) == (1, 1)
    scale.unscale([torch.ones(3)])
    assert (scale.found_inf.item(), scale.skipped.item()) == (0, 1)


def test_dynamic_scale_starts_at_65536_halves_on_overflow_and_doubles_after_2000_good_steps() -> None:
    scale = LossScale("dynamic", CPU)
    assert scale.scale.item() == 65536
    scale.unscale([torch.tensor([float("inf")])])
    scale.update()
    assert scale.scale.item() == 32768
    for _ in range(1999):
        scale.unscale([torch.ones(1)])
        scale.update()
    assert scale.scale.item() == 32768
    scale.unscale([torch.ones(1)])
    scale.update()
    assert scale.scale.item() == 65536


def test_static_scale_never_changes() -> None:
    scale = LossScale(128.0, CPU)
    scale.unscale([torch.tensor([float("nan")])])
    scale.update()
    assert scale.scale.item() == 128


def test_loss_scale_comes_back_as_it_was_saved() -> None:
    scale, other = LossScale("dynamic", CPU), LossScale("dynamic", CPU)
    for value in (float("inf"), 1.0):
        scale.unscale([torch.tensor([value])])
        scale.update()
    other.load_state_dict(scale.state_dict())
    assert (other.scale.item(), other.growth.item(), other.skipped.item()) == (32768, 1, 1)


def test_scale_saved_under_another_setting_gives_way_to_the_one_of_now() -> None:
    scale, other = LossScale("dynamic", CPU), LossScale(512.0, CPU)
    scale.unscale([torch.tensor([float("inf")])])
    other.load_state_dict(scale.state_dict())
    assert (other.scale.item(), other.skipped.item()) == (512, 1)


@pytest.mark.parametrize("setting", [0.0, -1.0, float("nan"), float("inf")])
def test_loss_scale_that_can_be_none_is_refused(setting: float) -> None:
    with pytest.raises(ValueError, match=r"LOSS_SCALE = .*: expected 'dynamic' or a positive number"):
        RunConfig(loss_scale=setting)


# ---- one decision for all ranks ----


def test_overflow_on_another_rank_counts_here_and_halves_the_scale() -> None:
    """`reduce_overflow` is the maximum over the ranks; here the other one has an overflow."""
    scale = LossScale("dynamic", CPU, reduce_overflow=lambda found_inf: torch.maximum(found_inf, torch.ones(())))
    gradients = [torch.full((3,), 65536.0)]
    scale.unscale(gradients)
    scale.update()
    assert gradients[0].tolist() == [1, 1, 1]
    assert (scale.found_inf.item(), scale.skipped.item(), scale.scale.item()) == (1, 1, 32768)


@pytest.mark.parametrize("bad", [1.0, float("nan")])
def test_ranks_are_told_of_the_own_overflow_as_zero_or_one(bad: float) -> None:
    told: list[float] = []
    scale = LossScale(4.0, CPU, reduce_overflow=lambda found_inf: (told.append(found_inf.item()), found_inf)[1])
    scale.unscale([torch.tensor([bad]), torch.tensor([bad, bad])])
    assert told == [0.0 if bad == 1.0 else 1.0]
