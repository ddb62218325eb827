"""The benchmarks of whole steps: sums, ratios, kinds of work and the look at the machine are right on known numbers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.nn import functional as F
from torch.profiler import profile, record_function

from benchmarks import child, convolutions, growth, kinds, machine_use, step
from benchmarks.cases import Case, read_authors
from benchmarks.convolutions import Layer
from benchmarks.measure import GEMM, Gemm, Timing
from gfl.errors import InputError

TINY = Case("small", 1, 32, 64)
LAYER = Layer((1, 3, 8, 8), (4, 3, 3, 3), torch.float32, True, (2, 2), (1, 1), (False, True, True))
ONE_BY_ONE = Layer((1, 4, 4, 4), (6, 4, 1, 1), torch.float32, False, (1, 1), (0, 0), (True, True, False))


# ---- bare convolutions ----


def test_a_step_s_convolutions_are_recorded_with_the_gradients_that_it_needs() -> None:
    first, second = torch.ones(LAYER.weight), torch.ones(ONE_BY_ONE.weight)
    bias = torch.zeros(4)

    def work() -> None:
        for leaf in (first, second, bias):
            leaf.requires_grad_()
        for _ in range(2):
            x = F.conv2d(torch.ones(LAYER.input), first, bias, stride=2, padding=1)
            F.conv2d(x, second).sum().backward()
        F.conv2d(torch.ones(1, 4, 4, 4), second.detach())

    without = ONE_BY_ONE._replace(gradients=(False, False, False))
    assert convolutions.record(work) == Counter({LAYER: 2, ONE_BY_ONE: 2, without: 1})


def test_every_layer_counts_as_often_as_it_comes_in_its_faster_layout() -> None:
    times = {(LAYER, "contiguous"): 1.0, (LAYER, "channels last"): 4.0}
    times |= {(ONE_BY_ONE, "contiguous"): 9.0, (ONE_BY_ONE, "channels last"): 2.0}
    timings = {convolutions.label(*key): Timing((seconds,)) for key, seconds in times.items()}
    assert convolutions.bare_seconds(Counter({LAYER: 3, ONE_BY_ONE: 5}), timings) == 3 * 1.0 + 5 * 2.0


def test_a_bare_layer_runs_forward_and_backward_in_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "LEAST_S", 0.0)
    for layer in (LAYER, ONE_BY_ONE, LAYER._replace(gradients=(False, False, False))):
        run = partial(convolutions.time_layer, layer, "channels last")
        seen = convolutions.record(run)
        assert seen.total() == sum(seen.values())
        assert layer in seen
        assert {each._replace(gradients=layer.gradients) for each in seen} == {layer}


# ---- kinds ----


def test_a_profile_is_divided_by_op_and_by_part_and_backward_counts_as_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.rand(4, 3, 3, 3, requires_grad=True)
    with profile() as profiler:
        with record_function(kinds.MARK + "prepare"):
            folded = weight.sin()
        with record_function(kinds.MARK + "backbone"):
            y = F.conv2d(torch.rand(1, 3, 32, 32), folded).relu()
        with record_function(kinds.MARK + "assignment + losses"):
            total = y.exp().sum()
        with record_function(kinds.MARK + "backward"):
            total.backward()
    events = list(profiler.events() or ())
    monkeypatch.setattr(FunctionEvent, "self_cpu_time_total", 1e6)  # a second each, so that counts can be told
    found = kinds.seconds_by_kind(events)
    assert sum(found.values()) == len(events)
    names = Counter(event.name for event in events)
    assert {names[name] for name in ("aten::sin", "aten::cos", "SinBackward0", "aten::exp", "ExpBackward0")} == {1}
    assert names["aten::mul"] == 2  # of the gradients of sin and exp
    assert found[kinds.FOLDING] == 4.0  # sin and its gradient: the node, cos and mul
    assert found[kinds.NORMS] == found[kinds.OPTIMISER] == 0.0
    convolutions_seen = [name for name in names.elements() if any(word in name.lower() for word in ("conv", "nnpack"))]
    assert found[kinds.CONVOLUTIONS] == len(convolutions_seen) - 1  # without autograd's own time at the node
    assert found[kinds.ACTIVATIONS] >= names["aten::relu"] + names["aten::threshold_backward"] == 2
    assert found[kinds.PYTHON] == sum(
        count for name, count in names.items() if name.startswith((kinds.MARK, kinds.BACKWARD_NODE))
    )


# ---- tables ----


def test_the_step_s_goal_is_its_convolutions_and_figures_are_in_products() -> None:
    quoted = (step.Quoted(TINY, 4.65, 0.0), step.Quoted(TINY._replace(width=32), 0.5, 0.45))
    setting = step.Setting(quoted, (), TINY, (), 1, Gemm(64), None)
    other = quoted[1].case
    timings = {GEMM: Timing((2.0,)), TINY.title: Timing((4.0,)), other.title: Timing((1.0,))}
    rows = step.step_table(setting, timings, {TINY: 3.0, other: 0.25}).rows
    assert rows[0][2:] == ("2.000", "1.575", "no", "1.500", "1.33", "4.650")
    assert rows[1][2:] == ("0.500", "0.450", "no", "0.125", "4.00", "0.500")


def test_a_busy_step_is_a_multiple_of_the_idle_one_of_its_round() -> None:
    assert step.busy_ratio(Timing((1.0, 2.0, 1.0)), Timing((3.0, 2.0, 2.0))) == (2.0, 1.0, 3.0)


def test_without_native_bfloat16_the_table_says_so() -> None:
    setting = step.Setting((), (), TINY, (), 1, Gemm(64), None)
    assert all("no native bfloat16" in row[3] for row in step.bfloat16_table(setting, {}).rows)


def test_growth_above_one_is_worse_than_linear() -> None:
    assert growth.growth([1.0, 2.0, 16.0], [10, 20, 40]) == [1.0, 1.0, 4.0]
    assert growth.bar(1.0, 1.0) == "█" * growth.BAR
    assert growth.bar(1.0, 4.0) == "█████" + "░" * 15


# ---- processes ----


def test_a_process_counts_its_own_peak_and_not_that_of_the_process_that_started_it() -> None:
    filled = np.ones(80_000_000)  # 640 MB
    command = [sys.executable, "-c", "from benchmarks.child import peak_mb; print(peak_mb())"]
    started = subprocess.run(command, capture_output=True, text=True, check=True, cwd=child.ROOT)
    assert 10.0 < float(started.stdout) < child.peak_mb() - 100.0
    assert filled[-1] == 1.0


def test_a_child_answers_and_one_that_fails_is_an_input_error() -> None:
    with child.children({"good": (TINY, {}), "bad": (TINY._replace(config="none"), {})}) as started:
        answer = started["good"].steps(1)
        assert answer.seconds > 0.0
        assert answer.peak_mb >= answer.before_mb > 10.0
        with pytest.raises(InputError, match="exit status"):
            started["bad"].steps(1)


def test_the_authors_step_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "authors.py"
    file.write_text("def make_authors_step(*sizes):\n    return lambda: sizes\n")
    assert read_authors(file)(1, 2, 3, 4, 5)() == (1, 2, 3, 4, 5)
    file.write_text("")
    with pytest.raises(InputError, match="make_authors_step"):
        read_authors(file)
    with pytest.raises(InputError, match="Python file"):
        read_authors(tmp_path / "missing.py")


# ---- other programs ----


def stat_text(*cores: tuple[int, int]) -> str:
    """A /proc/stat with (busy, idle) ticks of each core; guests' ticks, the last two, are among the busy ones."""
    lines = [f"cpu{number} {busy} 0 0 {idle} 0 0 0 0 {busy} 0" for number, (busy, idle) in enumerate(cores)]
    return "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 5"])


def test_what_others_use_of_our_cores_is_seen_while_this_process_sleeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stat"
    file.write_text(stat_text((100, 1000), (50, 1000), (0, 0)))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    after = stat_text((175, 1025), (50, 1100), (100, 0))  # the third core is not ours
    use = machine_use.sample(1.0, file, sleep=lambda _: (file.write_text(after), None)[1])
    assert use.others == 0.75
    assert use.busy
    assert "THE MACHINE WAS BUSY" in str(use)
    idle = machine_use.sample(1.0, file, sleep=lambda _: None)
    assert idle.others == 0.0
    assert "BUSY" not in str(idle)
    assert machine_use.sample(stat=tmp_path / "missing").others is None


def test_waiting_ends_with_idle_cores_or_the_time_that_was_given() -> None:
    clock = iter([0.0, 3.0, 5.0, 5.0]).__next__
    uses = iter([machine_use.Use(1.0, 0.9), machine_use.Use(1.0, 0.0)])
    assert machine_use.wait_until_idle(60.0, lambda: next(uses), clock) == machine_use.Use(1.0, 0.0, 5.0)
    clock = iter([0.0, 30.0, 61.0, 61.0]).__next__
    assert machine_use.wait_until_idle(60.0, lambda: machine_use.Use(1.0, 0.9), clock).busy
    with pytest.raises(InputError, match="wait_idle"):
        machine_use.wait_until_idle(60.0, lambda: machine_use.Use(1.0, None))
