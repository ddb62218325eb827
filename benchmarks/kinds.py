"""The time of a training step by kind of work, from torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.cases import Case
from benchmarks.parts import LOSSES, OPTIMISER, PARTS, PREPARE, step_parts
from gfl.engine.state import TrainState

CONVOLUTIONS, COPIES, FOLDING, ACTIVATIONS, NORMS = "convolutions", "copies", "folding", "activations", "norms"
LOSS, PYTHON, REST = "loss", "Python and autograd", "the rest"
KINDS = (CONVOLUTIONS, COPIES, FOLDING, ACTIVATIONS, NORMS, LOSS, OPTIMISER, PYTHON, REST)
OF_PART = {PREPARE: FOLDING, LOSSES: LOSS, OPTIMISER: OPTIMISER}  # whatever the op, forward and backward
# Of what runs in backbone, neck and head: a kind, and parts of the names of its ops.
NAMES = (
    (CONVOLUTIONS, ("conv", "nnpack")),
    (COPIES, ("copy", "clone", "contiguous", "aten::to", "aten::cat")),
    (NORMS, ("norm",)),
    (ACTIVATIONS, ("relu", "threshold", "clamp", "sigmoid", "softmax")),
)
MARK, BACKWARD_NODE = "part: ", "autograd::engine::evaluate_function: "


def profile_step(case: Case, state: TrainState) -> dict[str, float]:
    """Seconds of one step by kind. The profiler itself takes time at each op, so that small ops look longer."""
    run, batch = case.run(), case.pictures()
    parts = step_parts(state, iter([batch]), run)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for part in PARTS:
            with record_function(MARK + part):
                next(parts)
    return seconds_by_kind(profiler.events() or ())


def seconds_by_kind(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Sum the time that each event spends outside of those within it; the backward pass of an op counts as the op."""
    events = list(events)
    forward = (event for event in events if event.sequence_nr >= 0 and _backward_node(event) is None)
    # An op without a gradient has the number of the next op that has one, which comes later and stays.
    part_of = {event.sequence_nr: _forward_part(event) for event in forward}
    seconds: Counter[str] = Counter(dict.fromkeys(KINDS, 0.0))
    for event in events:
        part = _forward_part(event)
        node = _backward_node(event)
        if node is not None:
            part = part_of.get(node.sequence_nr, "")
        seconds[_kind(event.name, part)] += event.self_cpu_time_total / 1e6
    return dict(seconds)


def _forward_part(event: FunctionEvent) -> str:
    """The part in which an event lies; empty for none."""
    above: FunctionEvent | None = event
    while above is not None:
        if above.name.startswith(MARK):
            return above.name.removeprefix(MARK)
        above = above.cpu_parent
    return ""


def _backward_node(event: FunctionEvent) -> FunctionEvent | None:
    """The node of autograd in which an event lies."""
    above: FunctionEvent | None = event
    while above is not None:
        if above.name.startswith(BACKWARD_NODE):
            return above
        above = above.cpu_parent
    return None


def _kind(name: str, part: str) -> str:
    if name.startswith((MARK, BACKWARD_NODE)):
        return PYTHON
    if part in OF_PART:
        return OF_PART[part]
    return next((kind for kind, parts in NAMES if any(word in name.lower() for word in parts)), REST)
