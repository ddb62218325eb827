"""Time and memory of a step of the small model as its work grows: `python -m benchmarks.growth [--json FILE]`.

Against pixels, pictures a batch, boxes a picture and classes; and assignment and losses alone against boxes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks import loss
from benchmarks.cases import Case
from benchmarks.child import Answer, children
from benchmarks.command_line import benchmark_flags, rounds_of, run_program
from benchmarks.measure import Form, Timing, figures_of, interleave, milliseconds, timed
from benchmarks.tables import Findings, Table
from gfl.engine.heap import keep_freed_memory
from gfl.model.detector import DetectorConfig
from gfl.model.losses import loss_terms
from gfl.shapes import Canvas

BASE = Case("small", 2, 256, 256)
SIDES, BATCHES, BOXES, CLASSES = (128, 192, 256, 384, 512, 640), (1, 2, 4, 8, 16), (1, 10, 100, 1000), (1, 20, 80, 1200)
LOSS_CANVAS, QUICK_CANVAS = (800, 1344), (64, 64)
STEPS = 3
BAR = 20  # characters


class Series(NamedTuple):
    """Cases in which one kind of work grows."""

    name: str
    cases: Sequence[Case]
    work: Sequence[int]


def all_series(*, quick: bool) -> list[Series]:
    """What grows."""
    last = 2 if quick else 99
    base = BASE._replace(batch=1, height=64, width=64) if quick else BASE
    sides, batches, boxes, classes = (values[:last] for values in (SIDES, BATCHES, BOXES, CLASSES))
    if quick:
        sides = (32, 64)
    small = base._replace(height=min(base.height, 192), width=min(base.width, 192))
    return [
        Series("pixels", [base._replace(height=side, width=side) for side in sides], [side * side for side in sides]),
        Series("pictures a batch", [small._replace(batch=count) for count in batches], batches),
        Series("boxes a picture", [base._replace(boxes=count) for count in boxes], boxes),
        Series("classes", [base._replace(classes=count) for count in classes], classes),
    ]


def bar(value: float, largest: float) -> str:
    """A bar of blocks in a frame of BAR characters, which the largest value fills."""
    filled = round(BAR * value / largest)
    return "█" * filled + "░" * (BAR - filled)


def growth(values: Sequence[float], work: Sequence[int]) -> list[float]:
    """Value / work, the first one being 1: more than 1 is worse than linear."""
    return [value / values[0] / (amount / work[0]) for value, amount in zip(values, work, strict=True)]


def table(series: Series, seconds: Sequence[float], answers: Sequence[Answer]) -> Table:
    """Time and memory beside the work, with a bar each."""
    memory = [answer.peak_mb - answer.before_mb for answer in answers]
    columns = zip(series.work, seconds, growth(seconds, series.work), memory, strict=True)
    rows = tuple(
        (
            f"{work:,}",
            milliseconds(value),
            f"{ratio:.2f}",
            bar(value, max(seconds)),
            f"{megabytes:,.0f}",
            bar(max(0.0, megabytes), max(1.0, *memory)),
        )
        for work, value, ratio, megabytes in columns
    )
    first = series.cases[0]
    fixed = {"pixels": f"batches of {first.batch}", "pictures a batch": f"{first.height}x{first.width}"}.get(
        series.name, f"{first.batch} x {first.height}x{first.width}"
    )
    return Table(
        f"The step against {series.name}: small, {fixed}",
        (series.name, "ms", "time / work", "time", "MB", "memory"),
        rows,
        "Time / work: 1 at the first row; above 1 is worse than linear. MB: what the peak of the process grows by in "
        f"{STEPS} steps.",
    )


# ---- assignment and losses ----


class Slots(NamedTuple):
    """Boxes a picture among padded slots."""

    boxes: int
    slots: int

    @property
    def title(self) -> str:
        return f"{self.boxes:,} in {self.slots:,} slots"


def slot_cases(*, quick: bool) -> list[Slots]:
    """As many slots as boxes, and many slots for few boxes."""
    boxes = BOXES[:2] if quick else BOXES
    return [*(Slots(count, count) for count in boxes), *(Slots(count, boxes[-1]) for count in boxes[:-1])]


def loss_forms(slots: Slots, canvas_hw: Canvas) -> list[Form]:
    """Assignment, and losses with their gradients."""
    case = loss.make_case(2, slots.slots, canvas_hw, DetectorConfig())
    case.batch.box_mask[:, slots.boxes :] = False
    case.batch.boxes_xyxy[:, slots.boxes :] = 0.0
    terms = partial(loss_terms, case.outputs, case.assign(), case.grid, case.batch, case.cfg.loss)
    return [
        timed(f"assignment, {slots.title}", case.assign),
        timed(f"losses, {slots.title}", partial(loss.gradients, case.outputs, terms)),
    ]


def loss_table(cases: Sequence[Slots], timings: Mapping[str, Timing], canvas_hw: Canvas) -> Table:
    """Assignment and losses by boxes and slots."""
    rows = []
    both = [timings[f"assignment, {each.title}"].median + timings[f"losses, {each.title}"].median for each in cases]
    for each, value in zip(cases, both, strict=True):
        parts = (timings[f"{part}, {each.title}"].median for part in ("assignment", "losses"))
        rows.append((each.title, *map(milliseconds, parts), milliseconds(value), bar(value, max(both))))
    return Table(
        f"Assignment and losses against boxes: 2 x {canvas_hw[0]}x{canvas_hw[1]}, 80 classes",
        ("boxes a picture", "assignment ms", "losses ms", "both ms", "both"),
        tuple(rows),
        "In a run all batches have the same slots, so that the time does not follow the boxes of a batch.",
    )


# ---- the whole ----


def measure(arguments: argparse.Namespace) -> Findings:
    """A table for each kind of work."""
    repeats, every = rounds_of(arguments), all_series(quick=arguments.quick)
    cases = list(dict.fromkeys(case for series in every for case in series.cases))
    answers = {}
    for case in cases:
        with children({case.title: (case, {})}) as started:
            answers[case] = started[case.title].steps(STEPS)
    keep_freed_memory()
    timings = interleave([timed(str(case), case.make_step()) for case in cases], repeats)
    tables = []
    for series in every:
        seconds = [timings[str(case)].median for case in series.cases]
        tables.append(table(series, seconds, [answers[case] for case in series.cases]))
    canvas_hw = QUICK_CANVAS if arguments.quick else LOSS_CANVAS
    slots = slot_cases(quick=arguments.quick)
    losses: dict[str, Timing] = {}
    for each in slots:  # one after the other: their tensors together would fill the memory
        losses |= interleave(loss_forms(each, canvas_hw), repeats)
    tables.append(loss_table(slots, losses, canvas_hw))
    memory = {str(case): answer._asdict() for case, answer in answers.items()}
    return Findings(tuple(tables), {"seconds": figures_of({**timings, **losses}), "memory": memory})


def parser() -> argparse.ArgumentParser:
    return benchmark_flags("benchmarks.growth", __doc__)


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))
