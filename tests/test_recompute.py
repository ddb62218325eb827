"""Recomputing: the same losses and gradients to the bit, from fewer kept activations."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gfl.engine.module import DetectorModule, compiled
from gfl.model import detector
from gfl.settings import RunConfig
from gfl.tensors.precision import FP32, O1, Policy

CPU = torch.device("cpu")


def module_of(norm: str, *, recompute: bool, policy: Policy = FP32, freeze: str | None = None) -> DetectorModule:
    cfg = RunConfig(detector=tiny.detector_config(norm), freeze=freeze).for_classes(3).detector  # type: ignore[arg-type]
    return DetectorModule(detector.init(cfg, 0), cfg, [tiny.CANVAS], CPU, policy=policy, recompute=recompute)


def kept_bytes(module: DetectorModule) -> tuple[int, Tensor]:
    """Bytes of the tensors that the forward pass keeps for the backward pass, weights left out; and the loss."""
    sizes: dict[int, int] = {}
    weights = {leaf.data_ptr() for leaf in module.leaves().values()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = module(tiny.make_batch())
    return sum(sizes.values()), total


@pytest.mark.parametrize(
    ("norm", "policy", "freeze"),
    [("gn", FP32, None), ("frozen_bn", FP32, None), ("gn", O1, None), ("gn", FP32, "backbone")],
    ids=["gn", "frozen_bn", "o1", "frozen"],
)
def test_losses_and_gradients_are_the_same_to_the_bit(norm: str, policy: Policy, freeze: str | None) -> None:
    batch, results = tiny.make_batch(), []
    for recompute in (False, True):
        module = module_of(norm, recompute=recompute, policy=policy, freeze=freeze)
        total, parts = module(batch)
        total.backward()
        gradients = {path: parameter.grad for path, parameter in module.named_parameters()}
        results.append({"total": total, "parts": parts, "gradients": gradients})
    tiny.assert_equal_bits(*results)


def test_fewer_activations_are_kept() -> None:
    plain, recomputed = (kept_bytes(module_of("gn", recompute=recompute))[0] for recompute in (False, True))
    assert recomputed < 0.6 * plain


@pytest.mark.slow
def test_compiled_step_is_one_graph_and_has_the_same_loss() -> None:
    module, batch = module_of("gn", recompute=True), tiny.make_batch()
    expected, _ = module(batch)
    total, _ = compiled(module, backend="aot_eager")(batch)
    total.backward()
    torch.testing.assert_close(total, expected)
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_apex_is_refused() -> None:
    with pytest.raises(ValueError, match="RECOMPUTE=True with APEX=True: expected one of them"):
        RunConfig(precision="o1", apex=True, recompute=True)
