"""What each of two ranks computes for test_ranks.py: rank_parts.py FOLDER [BACKEND] writes FOLDER/<rank>.pt.

BACKEND: of torch.compile, for a step of that alone; without it, everything else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tiny
import torch
from graph_counter import GraphCounter
from torch import Tensor

from gfl.engine.module import DetectorModule, compiled
from gfl.engine.ranks import Ranks, join
from gfl.engine.state import TrainState, make_state, state_tree, step
from gfl.model import detector
from gfl.model.structures import Batch
from gfl.settings import OptimConfig, RunConfig
from gfl.tensors.precision import policy_of

RATE, STEPS = 0.05, 3
SGD = OptimConfig("sgd", ema=0.5, clip=1.0)
# name -> the batches of a step by rank: None is without a box, 'blank' without a picture, 'lone' one without a box
CASES: dict[str, tuple[tuple[int | str | None, ...], ...]] = {
    "boxes_everywhere": ((1,), (2,)),
    "rank_without_a_box": ((1,), (None,)),
    "no_box_at_all": ((None,), (None,)),
    "rank_without_a_picture": ((1,), ("blank",)),
    "one_picture_without_a_box": (("lone",), ("blank",)),
    "accumulated": ((1, 2), (3, None)),
}


def batch_of(seed: int | str | None) -> Batch:
    """A batch by the seed in CASES."""
    blank = Batch(*(torch.zeros_like(part) for part in tiny.make_batch()))
    without = tiny.make_batch(5)._replace(box_mask=blank.box_mask)
    if seed is None:
        return without
    if seed == "blank":
        return blank
    if seed == "lone":
        return Batch(
            *(torch.cat(pair) for pair in zip(*((part[:1] for part in each) for each in (without, blank)), strict=True))
        )
    return tiny.make_batch(int(seed))


def config(precision: str = "fp32") -> RunConfig:
    return tiny.run_config(SGD, norm="frozen_bn", precision=precision)


def make(ranks: Ranks, cfg: RunConfig, backend: str | GraphCounter = "") -> TrainState:
    """A state at step 0, as `gfl.train` makes it."""
    variables = detector.init(cfg.detector)
    policy = policy_of(cfg.precision)
    cpu = torch.device("cpu")
    module = DetectorModule(variables, cfg.detector, [tiny.CANVAS], cpu, policy=policy, reduce=ranks.mean)
    state = make_state(module, cfg, ranks.maximum)
    state.forward = ranks.synchronised(compiled(module, backend) if backend else state.forward)
    return state


def run_case(
    ranks: Ranks, batches: list[Batch], precision: str = "fp32", backend: str | GraphCounter = ""
) -> dict[str, object]:
    """Some steps on the same batches: the state and the mean of the ranks' metrics."""
    state = make(ranks, config(precision), backend)
    metrics: list[dict[str, Tensor]] = [step(state, batches, RATE, SGD) for _ in range(STEPS)]
    means = [{name: ranks.mean(value).item() for name, value in each.items()} for each in metrics]
    return {"state": tiny.tensors_of(state_tree(state)), "metrics": means}


def run_overflow(ranks: Ranks, *, late: bool) -> dict[str, object]:
    """A step in which the second rank overflows; late: after the gradients were averaged, so that it alone sees it."""
    state = make(ranks, config("o1"))
    before = tiny.tensors_of(state_tree(state))
    scale = state.loss_scale
    if ranks.rank == 1 and scale is not None:
        if late:
            unscale = scale.unscale

            def overflow(gradients: list[Tensor]) -> None:
                unscale([gradients[0].fill_(torch.inf), *gradients[1:]])

            scale.unscale = overflow  # type: ignore[method-assign]  # for one step
        else:
            scale.scale.fill_(3e38)
    metrics = step(state, [tiny.make_batch(ranks.rank)], RATE, SGD)
    return {"before": before, "after": tiny.tensors_of(state_tree(state)), "skipped": metrics["skipped"].item()}


def run_compiled(ranks: Ranks, backend: str) -> dict[str, object]:
    """A case by torch.compile, and how many graphs it took."""
    torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = 1000  # so that even this model has a bucket where one might cut
    graphs = GraphCounter(backend)
    batches = [batch_of(seed) for seed in CASES["rank_without_a_box"][ranks.rank]]
    return {**run_case(ranks, batches, backend=graphs), "graphs": len(graphs.graphs)}


def main() -> None:
    ranks = join()
    parts: dict[str, object] = {}
    for backend in sys.argv[2:]:
        parts[backend] = run_compiled(ranks, backend)
    if not parts:
        parts = {
            name: run_case(ranks, [batch_of(seed) for seed in batches[ranks.rank]]) for name, batches in CASES.items()
        }
        parts["half"] = run_case(ranks, [batch_of(CASES["boxes_everywhere"][ranks.rank][0])], "o1")
        parts["overflow"] = run_overflow(ranks, late=False)
        parts["late_overflow"] = run_overflow(ranks, late=True)
        parts["maximum"] = ranks.maximum(torch.tensor(float(ranks.rank))).item()
        parts["broadcast"] = ranks.broadcast_from_first(f"made by {ranks.rank}" if ranks.first else None)
        parts["gathered"] = ranks.gather_at_first(ranks.rank)
    torch.save(parts, Path(sys.argv[1]) / f"{ranks.rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    main()
