"""The training step in parts that can be timed and counted, on weights that look trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count

import torch

from benchmarks.inputs import with_lively_norms
from benchmarks.measure import Sample
from gfl.data.loader import TrainLoader
from gfl.engine.module import DetectorModule
from gfl.engine.state import TrainState, make_state, step
from gfl.model import backbones, detector, fpn, head
from gfl.model.anchors import padded_sizes
from gfl.model.structures import Batch
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.tensors.variables import child

DATA, PREPARE, BACKBONE, NECK, HEAD = "data", "prepare", "backbone", "neck", "head"
LOSSES, BACKWARD, OPTIMISER = "assignment + losses", "backward", "optimiser"
OF_FORWARD = (PREPARE, BACKBONE, NECK, HEAD)
PARTS = (DATA, *OF_FORWARD, LOSSES, BACKWARD, OPTIMISER)
STEP, FORWARD = "step", "forward"  # sums of parts
UNDIVIDED = "gfl.engine.state.step"  # the whole step, as training runs it
RATE = 1e-6  # learning rate: weights hardly change, so that every round does the same work


def make_training(run: RunConfig, canvases: tuple[Canvas, ...]) -> TrainState:
    """A state on the CPU with weights that look trained."""
    variables = with_lively_norms(detector.init(run.detector, seed=0))
    return make_state(DetectorModule(variables, run.detector, canvases, torch.device("cpu")), run)


def endless(loader: TrainLoader) -> Iterator[Batch]:
    """The loader's batches, epoch after epoch."""
    for epoch in count():
        yield from (loaded.batch for loaded in loader.batches(loader.plan(epoch)))


def step_parts(state: TrainState, batches: Iterator[Batch], run: RunConfig) -> Iterator[str]:
    """One `gfl.engine.state.step` without EMA; yields the name of each part when it is done.

    Tensors are freed where the step itself frees them, because memory that is held longer costs time.
    """
    module, cfg = state.module, state.module.cfg
    batch = next(batches)
    yield DATA
    prepared = detector.prepare(module.variables(), module.constants, module.policy)
    images = detector.normalise(batch.images, batch.image_sizes, cfg)
    yield PREPARE
    features = backbones.apply(child(prepared.tree, "backbone"), images, cfg.backbone)
    yield BACKBONE
    pyramid = fpn.apply(child(prepared.tree, "neck"), features)
    yield NECK
    outputs = head.apply(child(prepared.tree, "bbox_head"), pyramid, cfg.head)
    del prepared, images, features, pyramid
    yield HEAD
    grid = module.grids[batch.images.shape[2], batch.images.shape[3]]
    total, _ = detector.loss_of_outputs(outputs, batch, padded_sizes(batch.image_sizes), grid, cfg)
    del outputs
    yield LOSSES
    torch.autograd.backward(total)
    yield BACKWARD
    for group in state.optimiser.param_groups:
        group["lr"] = RATE
    if run.optim.clip:
        torch.nn.utils.clip_grad_norm_(module.parameters(), run.optim.clip)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    yield OPTIMISER


def time_parts(state: TrainState, batches: Iterator[Batch], run: RunConfig) -> Sample:
    """Seconds of each part of one step, and of their sums."""
    seconds: dict[str, float] = {}
    before = time.perf_counter()
    for part in step_parts(state, batches, run):
        now = time.perf_counter()
        seconds[part] = now - before
        before = time.perf_counter()
    return {**seconds, FORWARD: sum(seconds[part] for part in OF_FORWARD), STEP: sum(seconds.values())}


def time_undivided(state: TrainState, batches: Iterator[Batch], run: RunConfig) -> Sample:
    """Seconds of the undivided step without its data, which the parts should add up to."""
    batch = next(batches)
    started = time.perf_counter()
    step(state, [batch], RATE, run.optim)
    return {UNDIVIDED: time.perf_counter() - started}
