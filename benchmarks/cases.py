"""Training steps of chosen sizes on random pictures, for the benchmarks that compare whole steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch

from benchmarks.inputs import random_batch, with_lively_norms
from benchmarks.parts import RATE
from gfl.config import read_run
from gfl.engine.module import DetectorModule
from gfl.engine.state import TrainState, make_state, step
from gfl.errors import InputError
from gfl.model import detector
from gfl.model.structures import Batch
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.tensors.precision import policy_of

RUN_FILES = {
    "r50": "r50.gin",
    "small": "scratch_small.gin",
    "gfl_v1_r50": "gfl_v1_r50.gin",
    **{name: f"{name}_ms2x.gin" for name in ("r101", "r101_dcn", "x101_dcn", "res2net101_dcn")},
}
MakeAuthorsStep = Callable[[int, int, int, int, int], Callable[[], object]]


class Case(NamedTuple):
    """A model and the work of its step."""

    config: str  # r50 | small
    batch: int
    height: int
    width: int
    precision: str = "fp32"
    boxes: int = 8  # a picture
    classes: int = 80

    @property
    def canvas_hw(self) -> Canvas:
        return self.height, self.width

    @property
    def title(self) -> str:
        """'R50 2x512x512, fp32'."""
        name = "R50" if self.config == "r50" else self.config
        return f"{name} {self.batch}x{self.height}x{self.width}, {self.precision}"

    def run(self) -> RunConfig:
        """The run file's settings for this case; without EMA, as in `step_parts`."""
        run = read_run([RUN_FILES[self.config]]).run.for_classes(self.classes)
        return replace(
            run,
            precision=self.precision,  # type: ignore[arg-type]  # one of PRECISIONS
            optim=replace(run.optim, ema=0.0),
            batch_size=self.batch,
            accumulate=1,
        )

    def state(self) -> TrainState:
        """A state on the CPU, with weights that look trained."""
        run = self.run()
        variables = with_lively_norms(detector.init(run.detector, seed=0))
        policy = policy_of(self.precision)
        module = DetectorModule(variables, run.detector, (self.canvas_hw,), torch.device("cpu"), policy=policy)
        return make_state(module, run)

    def pictures(self) -> Batch:
        """A batch of noise with a box in every slot."""
        return random_batch(self.batch, self.boxes, self.canvas_hw, self.classes)

    def make_step(self) -> Callable[[], object]:
        """A function that takes one training step."""
        return partial(step, self.state(), [self.pictures()], RATE, self.run().optim)


def read_authors(file: Path) -> MakeAuthorsStep:
    """make_authors_step(batch, height, width, boxes, classes) of a Python file, which returns a step to be called."""
    spec = importlib.util.spec_from_file_location("authors_step", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise InputError(f"got --authors {file}, expected a Python file; name one that defines make_authors_step")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, "make_authors_step", None)
    if not callable(make):
        raise InputError(f"got {file} without make_authors_step, expected that function; define it there")
    return cast(MakeAuthorsStep, make)
