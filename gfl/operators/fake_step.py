"""A whole training step on fake tensors, which have shapes and no values: a full-size model takes seconds.

Code that reads a value during such a step gets an error from torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gfl.engine.module import DetectorModule
from gfl.engine.state import TrainState, make_state, step
from gfl.model import detector
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.structures import Batch
from gfl.operators.trace import Op, OpTrace
from gfl.settings import OptimConfig, RunConfig
from gfl.shapes import Canvas
from gfl.tensors.precision import policy_of

CPU = torch.device("cpu")
RATE = 0.01  # the learning rate; any will do


def fake_state(cfg: RunConfig, canvases: Sequence[Canvas], device: torch.device = CPU) -> TrainState:
    """A state at step 0; to be called under a FakeTensorMode."""
    variables, policy = detector.init(cfg.detector), policy_of(cfg.precision)
    module = DetectorModule(variables, cfg.detector, canvases, device, policy=policy, recompute=cfg.recompute)
    return make_state(module, cfg)


def fake_batch(canvas: Canvas, pictures: int, slots: int, ignored: int = 1, device: torch.device = CPU) -> Batch:
    """A batch with `slots` boxes and `ignored` ignored regions a picture; under a FakeTensorMode it has no values."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((pictures, *shape), dtype=dtype, device=device)

    return Batch(
        images=empty(3, *canvas, dtype=torch.uint8),
        image_sizes=empty(2, dtype=torch.int32),
        boxes_xyxy=empty(slots, 4),
        labels=empty(slots, dtype=torch.int32),
        box_mask=empty(slots, dtype=torch.bool),
        ignored_xyxy=empty(ignored, 4),
        ignored_mask=empty(ignored, dtype=torch.bool),
        image_weights=empty(),
    )


def step_ops(canvas: Canvas = (128, 128), pictures: int = 1, slots: int = 8) -> list[Op]:
    """The operators of two training steps: float32 with SGD, and O1 with AdamW and a dynamic loss scale."""
    # The shallowest backbone, since a deeper one repeats the same operators.
    model = DetectorConfig(backbone=ResNetConfig(18))
    sgd, adamw = OptimConfig(ema=0.999, clip=35.0), OptimConfig("adamw", ema=0.999, clip=35.0)
    runs = (
        RunConfig(detector=model, optim=sgd),
        RunConfig(detector=model, optim=adamw, precision="o1", loss_scale="dynamic"),
    )
    ops: list[Op] = []
    for cfg in runs:
        with FakeTensorMode():
            state, batch = fake_state(cfg, [canvas]), fake_batch(canvas, pictures, slots)
            with OpTrace() as trace:
                step(state, [batch], RATE, cfg.optim)
        ops += trace.ops
    return ops
