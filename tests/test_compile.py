"""torch.compile of forward + loss: one graph a canvas, none more for other batches, no symbolic number in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import tiny
import torch
from graph_counter import GraphCounter
from test_static_step import BATCHES
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gfl.engine.module import DetectorModule, compiled
from gfl.engine.state import make_state, step
from gfl.model import detector
from gfl.model.structures import Batch
from gfl.operators.fake_step import RATE
from gfl.settings import OptimConfig, RunConfig
from gfl.shapes import Canvas
from gfl.tensors.precision import policy_of

CANVASES = (tiny.CANVAS, (96, 64))
FLOAT32 = tiny.run_config(OptimConfig(ema=0.99), norm="frozen_bn")
O1 = tiny.run_config(OptimConfig("adamw"), precision="o1")
RUNS = {"fp32, two canvases": (FLOAT32, CANVASES), "o1": (O1, CANVASES[:1])}


def symbols(graph: torch.fx.GraphModule) -> list[str]:
    """The nodes whose value, or a side of it, is a symbolic number."""
    symbolic = (torch.SymInt, torch.SymFloat, torch.SymBool)

    def is_symbolic(value: object) -> bool:
        sides = value.shape if isinstance(value, Tensor) else ()
        return isinstance(value, symbolic) or any(isinstance(side, symbolic) for side in sides)

    nodes = graph.graph.nodes
    return [str(node) for node in nodes if any(map(is_symbolic, tree_leaves(node.meta.get("example_value"))))]


def turned(batch: Batch) -> Batch:
    """The batch on the other canvas: rows become columns."""
    return batch._replace(
        images=batch.images.transpose(2, 3).contiguous(),
        image_sizes=batch.image_sizes.flip(1),
        boxes_xyxy=batch.boxes_xyxy[..., [1, 0, 3, 2]],
        ignored_xyxy=batch.ignored_xyxy[..., [1, 0, 3, 2]],
    )


def ten_a_canvas() -> list[Batch]:
    """Ten of each canvas, in turns: no box, one, the most, a crowd, a blank, and again with other pictures."""
    names = ("no box", "one box", "most boxes", "crowd boxes", "a blank") * 2
    lying = [BATCHES[name](tiny.make_batch(seed)) for seed, name in enumerate(names)]
    return [batch for pair in zip(lying, map(turned, lying), strict=True) for batch in pair]


class Trained(NamedTuple):
    """Some training steps: the losses of the compiled module, and of the module itself with the same weights."""

    canvases: Sequence[Canvas]
    graphs: list[torch.fx.GraphModule]
    compiled: list[dict[str, Tensor]]
    eager: list[dict[str, Tensor]]


def train(cfg: RunConfig, canvases: Sequence[Canvas], backend: str) -> Trained:
    """A training step on each of ten batches a canvas, those of other canvases left out."""
    torch._dynamo.reset()
    counter = GraphCounter(backend)
    variables = detector.init(cfg.detector)
    module = DetectorModule(variables, cfg.detector, canvases, torch.device("cpu"), policy=policy_of(cfg.precision))
    state = make_state(module, cfg)
    state.forward = compiled(module, counter)
    trained = Trained(canvases, counter.graphs, [], [])
    for batch in ten_a_canvas():
        if tuple(batch.images.shape[2:]) in canvases:
            with torch.no_grad():
                total, parts = module(batch)
            metrics = step(state, [batch], RATE, cfg.optim)
            trained.eager.append({"loss": total, **parts})
            trained.compiled.append({name: metrics[name] for name in trained.eager[-1]})
    return trained


@pytest.fixture(scope="module", params=[next(iter(RUNS)), pytest.param("o1", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest) -> Iterator[Trained]:
    yield train(*RUNS[request.param], "aot_eager")
    torch._dynamo.reset()


def test_each_canvas_is_one_graph_for_all_batches(trained: Trained) -> None:
    assert len(trained.graphs) == len(trained.canvases)
    assert len(trained.compiled) == 10 * len(trained.canvases)
    assert torch._dynamo.utils.counters["graph_break"] == {}


def test_graphs_hold_no_symbolic_number(trained: Trained) -> None:
    assert [name for graph in trained.graphs for name in symbols(graph)] == []


def test_compiled_losses_are_those_of_the_module(trained: Trained) -> None:
    torch.testing.assert_close(trained.compiled, trained.eager)
    assert len({loss["loss"].item() for loss in trained.compiled}) == len(trained.compiled)


@pytest.mark.parametrize(
    ("knob", "mode"), [(True, None), ("reduce-overhead", "reduce-overhead"), ("max-autotune-no-cudagraphs",) * 2]
)
def test_mode_that_compile_names_is_torchs(knob: bool | str, mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: (asked.append(options), module)[1])
    tiny.make(replace(FLOAT32, compile=knob))
    assert asked == [{"backend": "inductor", "mode": mode, "fullgraph": True, "dynamic": False}]


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_gradients_of_several_parts_are_not_added_up_in_a_cuda_graph(mode: str) -> None:
    """pytorch/pytorch issue 169545: later parts write over the gradients of the first."""
    with pytest.raises(ValueError, match=f"COMPILE='{mode}' with ACCUMULATE=2: expected 1, .* set ACCUMULATE = 1 or"):
        RunConfig(compile=mode, accumulate=2)  # type: ignore[arg-type]
    assert RunConfig(compile="max-autotune-no-cudagraphs", accumulate=2).accumulate == 2


@pytest.mark.slow  # minutes of C++ compilation
# Inductor imports a module of torch that uses what torch deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", RUNS)
def test_inductor_gives_the_same_losses_from_one_graph_a_canvas(name: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler, and there is no g++")
    trained = train(*RUNS[name], "inductor")
    torch._dynamo.reset()
    assert len(trained.graphs) == len(trained.canvases)
    # Fused kernels keep float16 values in float32 between operators; float32 sums add up in another order.
    rtol = 2e-2 if name == "o1" else 1e-3
    torch.testing.assert_close(trained.compiled, trained.eager, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize(
    ("function", "symbolic"), [(lambda x: x + 1, False), (lambda x: x[: x.shape[0] // 2] * x.shape[0], True)]
)
def test_symbols_of_a_graph_are_found(function: Callable[[Tensor], Tensor], symbolic: bool) -> None:
    torch._dynamo.reset()
    counter = GraphCounter("eager")
    torch.compile(function, backend=counter, dynamic=symbolic)(torch.ones(6))
    (graph,) = counter.graphs
    assert bool(symbols(graph)) == symbolic
