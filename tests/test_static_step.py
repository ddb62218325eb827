"""A step is one static graph: the same operators whatever the batch holds, few of them, each with a kernel on an NPU.

Traced on fake tensors, a whole R50 step takes seconds: nothing is computed, and whoever reads a value gets an error.
What depends on values (boxes, blanks, an overflow) is traced on a small model with real numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import tiny
import torch
from audit import Auditor, first_difference
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gfl.engine.module import DetectorModule
from gfl.engine.state import TrainState, step
from gfl.model import detector
from gfl.model.anchors import padded_sizes
from gfl.model.assign import ATSSConfig
from gfl.model.structures import Batch
from gfl.operators.fake_step import RATE, fake_batch, fake_state
from gfl.operators.trace import Op
from gfl.settings import OptimConfig, RunConfig
from gfl.tensors.precision import policy_of

CANVASES = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))  # of 4:3 and 5:3 pictures, lying and standing
SIZES = ((1, 8), (2, 8), (8, 40), (2, 160))  # pictures and box slots of a batch on each
R50 = {
    "fp32": RunConfig(optim=OptimConfig(ema=0.9998)),
    "o1": RunConfig(optim=OptimConfig(ema=0.9998), precision="o1"),
    "bf16": RunConfig(precision="bf16"),
}
STEP_OPS = 1500  # the reference takes 1,691 for one picture and 3,880 for 8 x 40 boxes
LOSS_OPS = 300  # assignment + losses, forward


class R50Steps(NamedTuple):
    """The R50 of the paper on fake tensors: a step a canvas, and what predict does on each."""

    mode: FakeTensorMode
    state: TrainState
    steps: list[Auditor]
    predictions: list[Auditor]


@pytest.fixture(scope="module", params=R50)
def r50(request: pytest.FixtureRequest) -> R50Steps:
    cfg = R50[request.param]
    canvases = CANVASES if request.param != "bf16" else CANVASES[:1]
    with FakeTensorMode() as mode:
        state = fake_state(cfg, canvases)
        batches = [fake_batch(canvas, *size) for canvas, size in zip(canvases, SIZES, strict=False)]
        steps = [audited_step(state, batch, cfg.optim) for batch in batches]
        # Evaluation runs in float32 whatever trained the weights.
        predictions = [audited_predict(state.module, batch) for batch in batches] if request.param == "fp32" else []
    return R50Steps(mode, state, steps, predictions)


def audited_step(state: TrainState, batch: Batch, cfg: OptimConfig) -> Auditor:
    """forward, loss, backward, loss scale, optimiser and EMA."""
    with Auditor() as audit:
        step(state, [batch], RATE, cfg)
    return audit


def audited_predict(module: DetectorModule, batch: Batch) -> Auditor:
    grid = module.grids[(batch.images.shape[2], batch.images.shape[3])]
    with torch.no_grad(), Auditor() as audit:
        prepared = detector.prepare(module.variables(), module.constants)
        detector.predict(prepared, batch.images, batch.image_sizes, grid, module.cfg)
    return audit


def computing(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if op.computes]


def commonest(ops: Sequence[Op]) -> str:
    """The largest groups of operations, for a message."""
    return ", ".join(f"{name} {count}" for name, count in Counter(op.name for op in ops).most_common(12))


# ---- R50 at full size ----


def test_step_and_predict_keep_every_rule_on_every_canvas(r50: R50Steps) -> None:
    for audit in (*r50.steps, *r50.predictions):
        assert audit.violations == []
        assert audit.ops


def test_step_takes_the_same_operations_for_any_canvas_and_batch_size(r50: R50Steps) -> None:
    for audits in (r50.steps, r50.predictions):
        kinds = [[(op.name, op.dtypes) for op in audit.ops] for audit in audits]
        assert all(other == kinds[0] for other in kinds), [len(each) for each in kinds]


@pytest.mark.parametrize("r50", ["fp32"], indirect=True)  # the others cast besides
def test_step_takes_few_operations(r50: R50Steps) -> None:
    ops = computing(r50.steps[0].ops)
    assert len(ops) <= STEP_OPS, f"{len(ops)} operations: {commonest(ops)}"


def test_assignment_and_losses_take_few_operations() -> None:
    cfg = detector.DetectorConfig()
    with FakeTensorMode():
        module = fake_state(replace(R50["fp32"], detector=tiny.detector_config()), CANVASES[:1]).module
        batch, grid = fake_batch(CANVASES[0], 2, 40), module.grids[CANVASES[0]]
        scores = torch.empty((2, grid.num_anchors, 81), requires_grad=True)
        edges = torch.empty((2, grid.num_anchors, 4, 17), requires_grad=True)
        with Auditor() as audit:
            padded_hw = padded_sizes(batch.image_sizes)
            detector.loss_of_outputs(detector.Outputs(scores, edges), batch, padded_hw, grid, cfg)
    ops = computing(audit.ops)
    assert len(ops) <= LOSS_OPS, f"{len(ops)} operations: {commonest(ops)}"


@pytest.mark.parametrize("read", [lambda x: x.tolist(), lambda x: float(x[0]), lambda x: x.numpy()])
def test_fake_tensor_has_no_values_to_read(read: Callable[[Tensor], object]) -> None:
    """What a CPU tensor gives away below the dispatcher, a fake one does not have."""
    with FakeTensorMode():
        x = torch.ones(3)
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(x)


# ---- a small model on real numbers ----

SMALL = {
    "fp32, sgd": tiny.run_config(OptimConfig(ema=0.99, clip=10.0), norm="frozen_bn"),
    "fp32, adamw, crowds ignored": replace(
        tiny.run_config(OptimConfig("adamw")),
        detector=replace(tiny.detector_config(), assign=ATSSConfig(ignore_iof=0.5)),
    ),
    "bf16, sgd": tiny.run_config(OptimConfig(ema=0.99, clip=10.0), norm="frozen_bn", precision="bf16"),
    "o1, static scale": tiny.run_config(OptimConfig(ema=0.99), norm="frozen_bn", precision="o1"),
    "o1, adamw, dynamic scale": tiny.run_config(
        OptimConfig("adamw", ema=0.99, clip=10.0), precision="o1", loss_scale="dynamic"
    ),
}


def with_boxes(batch: Batch, most: int) -> Batch:
    """The first `most` box slots of each picture filled, the rest empty."""
    boxes = tiny.make_batch(seed=1).boxes_xyxy
    boxes = torch.cat([boxes[:, :3], boxes[:, :1] / 2], dim=1)
    mask = (torch.arange(4) < most).repeat(len(boxes), 1)
    return batch._replace(boxes_xyxy=boxes * mask.unsqueeze(2), labels=batch.labels * mask, box_mask=mask)


def with_crowd(batch: Batch) -> Batch:
    """A crowd box over the left half of each picture."""
    height, width = tiny.CANVAS
    box = torch.tensor([0.0, 0.0, width / 2, height]).repeat(len(batch.images), 1, 1)
    return batch._replace(ignored_xyxy=box, ignored_mask=torch.ones_like(batch.ignored_mask))


def with_blank(batch: Batch) -> Batch:
    """The last picture blank, as the loader fills the last batch of a canvas."""
    keep = torch.tensor([1.0] * (len(batch.images) - 1) + [0.0])
    parts = (part * keep.view(-1, *[1] * (part.ndim - 1)).to(part.dtype) for part in batch)
    return Batch(*parts)


BATCHES: dict[str, Callable[[Batch], Batch]] = {
    "no box": lambda batch: with_boxes(batch, 0),
    "one box": lambda batch: with_boxes(batch, 1),
    "most boxes": lambda batch: with_boxes(batch, 4),
    "crowd boxes": with_crowd,
    "other pictures": lambda batch: tiny.make_batch(seed=7),
    "a blank": with_blank,
}


class SmallRun(NamedTuple):
    """A small model at step 0 and the trace of its first step on the usual batch."""

    cfg: RunConfig
    state: TrainState
    usual: Auditor

    def audit(self, *batches: Batch) -> Auditor:
        """The first step, of a copy of the state."""
        return audited(tiny.copy_of(self.state), self.cfg, batches)


def audited(state: TrainState, cfg: RunConfig, batches: Sequence[Batch]) -> Auditor:
    with Auditor() as audit:
        metrics = step(state, batches, RATE, cfg.optim)
    assert all(metric.ndim == 0 for metric in metrics.values())
    return audit


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest) -> SmallRun:
    cfg = SMALL[request.param]
    state = tiny.make(cfg, policy=policy_of(cfg.precision))
    return SmallRun(cfg, state, audited(tiny.copy_of(state), cfg, [tiny.make_batch()]))


def test_small_step_keeps_every_rule(small: SmallRun) -> None:
    assert small.usual.violations == []


@pytest.mark.parametrize("name", BATCHES)
def test_trace_is_the_same_for_any_batch(small: SmallRun, name: str) -> None:
    audit = small.audit(BATCHES[name](tiny.make_batch()))
    assert audit.violations == []
    assert first_difference(small.usual.ops, audit.ops) is None


@pytest.mark.parametrize("small", [name for name, cfg in SMALL.items() if cfg.precision == "o1"], indirect=True)
def test_trace_of_an_overflow_is_that_of_any_step(small: SmallRun) -> None:
    state = tiny.copy_of(small.state)
    state.loss_scale.scale.fill_(torch.inf)
    audit = audited(state, small.cfg, [tiny.make_batch()])
    assert state.loss_scale.found_inf == 1
    assert audit.violations == []
    assert first_difference(small.usual.ops, audit.ops) is None


def test_step_of_two_batches_keeps_every_rule(small: SmallRun) -> None:
    audit = small.audit(tiny.make_batch(), with_blank(tiny.make_batch(seed=1)))
    assert audit.violations == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nms_pre": 20, "keep_padding_cells": True, "keep_background": True},
        {"nms": "soft_linear"},
        {"nms": "soft_gaussian", "class_agnostic": True},
    ],
)
def test_predict_is_the_same_trace_for_any_pictures(changes: dict[str, object]) -> None:
    cfg = tiny.detector_config()
    cfg = replace(cfg, predict=replace(cfg.predict, **changes))
    module = DetectorModule(detector.init(cfg), cfg, [tiny.CANVAS], torch.device("cpu"))
    batches = (tiny.make_batch(), tiny.make_batch(seed=7), with_blank(tiny.make_batch()))
    usual, *others = (audited_predict(module, batch) for batch in batches)
    assert usual.violations == []
    assert [first_difference(usual.ops, other.ops) for other in others] == [None, None]


def test_nothing_of_the_forward_backward_and_predict_lies_on_the_host() -> None:
    """On torch's 'meta', a device that is not the CPU: a copy to the CPU, or a tensor left there, would show."""
    there = torch.device("meta")
    cfg = tiny.detector_config("frozen_bn")
    module = DetectorModule(detector.init(cfg), cfg, [tiny.CANVAS], there)
    batch = Batch(*(part.to(there) for part in tiny.make_batch()))
    with Auditor() as audit:
        total, _ = module(batch)
        total.backward()
    assert audit.violations == []
    assert audited_predict(module, batch).violations == []
    assert all(parameter.grad.device == there for parameter in module.parameters())
