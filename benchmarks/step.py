"""Whole training steps beside what they could be: `python -m benchmarks.step [--json FILE] [--authors FILE]`.

Times in G, the time of one 4096^3 float32 product in the same run; beside the sum of the step's bare convolutions; by
kind of work; in bfloat16; beside a busy process; and the peak of memory.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import convolutions, kinds
from benchmarks.cases import Case, read_authors
from benchmarks.child import Answer, Child, busy_process, children
from benchmarks.command_line import benchmark_flags, gemm_of, rounds_of, run_program
from benchmarks.measure import (
    GEMM,
    Form,
    Gemm,
    Ratio,
    Timing,
    figures_of,
    interleave,
    milliseconds,
    paired_ratio,
    timed,
)
from benchmarks.parts import RATE
from benchmarks.tables import Findings, Table
from gfl.engine.heap import keep_freed_memory
from gfl.engine.precision_choice import native_bfloat16
from gfl.engine.state import step

GOAL_BARE = 1.05


class Quoted(NamedTuple):
    """A case, the authors' figure for it, and the goal."""

    case: Case
    authors: float  # of REFERENCE: G, or MB
    goal: float  # G; of memory, a share of the authors' figure. 0: GOAL_BARE times the bare convolutions


# The authors' code (GFocalV2, mmdetection 2.6.0), torch 2.13, 2 cores with AVX512 and bfloat16, 8 boxes a picture.
TIMES: Sequence[Quoted] = (
    Quoted(Case("r50", 2, 512, 512), 4.65, 0.0),
    Quoted(Case("r50", 1, 800, 1344), 10.0, 0.0),
    Quoted(Case("r50", 2, 128, 128), 0.476, 0.45),
)
SMALL = Case("small", 2, 288, 384)
BFLOAT16: Sequence[tuple[Case, float]] = (
    (Case("r50", 2, 288, 384), 1.9),
    (SMALL, 1.6),
)  # and the least speed-up over fp32 that is the goal
MEMORY: Sequence[Quoted] = (Quoted(Case("r50", 2, 512, 512), 1811, 0.75), Quoted(Case("r50", 2, 800, 1344), 4200, 0.75))
# Spinning of OpenMP's threads, by variables of the environment. The second keeps libgomp's default throughout.
SHIPPED = "as shipped"
SPINNING: Mapping[str, Mapping[str, str]] = {
    SHIPPED: {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
GOAL_BUSY = 2.0
IDLE_STEPS, BUSY_STEPS, MEMORY_STEPS = 10, 3, 3
AUTHORS = "authors"


class Setting(NamedTuple):
    """What to measure, and how often."""

    times: Sequence[Quoted]
    bfloat16: Sequence[tuple[Case, float]]  # none where the processor has no native bfloat16
    small: Case
    memory: Sequence[Quoted]
    repeats: int
    gemm: Gemm
    authors: Path | None


# ---- the tables ----


def step_table(setting: Setting, timings: Mapping[str, Timing], bare: Mapping[Case, float]) -> Table:
    """Steps in G beside the authors' and the goals."""
    product = timings[GEMM].median
    rows = []
    for quoted in setting.times:
        case = quoted.case
        now = timings[case.title].median
        goal = quoted.goal or GOAL_BARE * bare[case] / product
        theirs = timings.get(f"{AUTHORS} {case.title}")
        here = () if setting.authors is None else ("" if theirs is None else f"{theirs.median / product:.3f}",)
        met = "yes" if now / product <= goal else "no"
        cells = (f"{now / product:.3f}", f"{goal:.3f}", met, f"{bare[case] / product:.3f}", f"{now / bare[case]:.2f}")
        rows.append((case.title, milliseconds(now), *cells, f"{quoted.authors:.3f}", *here))
    here = () if setting.authors is None else ("authors here, G",)
    header = ("step", "ms", "now, G", "goal, G", "met", "bare convolutions, G", "step / bare", "authors, G", *here)
    return Table(
        "The step, in products of two matrices",
        header,
        tuple(rows),
        f"G: {setting.gemm.note(timings)} The goal of the large sizes: {GOAL_BARE} times their bare convolutions. "
        "Authors: their code on another machine (2 cores, AVX512 with bfloat16), in the G of that machine."
        + ("" if setting.authors is None else " Authors here: their code in the same rounds as ours."),
    )


def kind_table(
    cases: Sequence[Case],
    timings: Mapping[str, Timing],
    bare: Mapping[Case, float],
    shares: Mapping[Case, Mapping[str, float]],
) -> Table:
    """The step beside its bare convolutions, and a profiled step by kind; a column for each case."""
    rows = [
        ("step", *(milliseconds(timings[case.title].median) for case in cases)),
        ("its convolutions, bare", *(milliseconds(bare[case]) for case in cases)),
        ("step / bare", *(f"{timings[case.title].median / bare[case]:.2f}" for case in cases)),
    ]
    totals = {case: sum(shares[case].values()) for case in cases}
    for kind in kinds.KINDS:
        of_case = ((shares[case][kind], shares[case][kind] / totals[case]) for case in cases)
        rows.append((f"profiled: {kind}", *(f"{milliseconds(value)} ({share:.1%})" for value, share in of_case)))
    rows.append(("profiled step", *(milliseconds(totals[case]) for case in cases)))
    return Table(
        "The step beside its bare convolutions, and by kind, ms",
        ("", *(case.title for case in cases)),
        tuple(rows),
        "Bare: every convolution of the step alone, forward and backward, with the gradients that the step needs, in "
        "the faster of both layouts a layer, times its count. Profiled: one step under torch's profiler, which adds to "
        "each op, so that the kinds of many small ops look longer; the backward pass of an op counts as the op. "
        "Folding, loss and optimiser: all of their ops; convolutions, copies, activations and norms: those of the "
        "network; Python and autograd: between the ops.",
    )


def bfloat16_table(setting: Setting, timings: Mapping[str, Timing]) -> Table:
    """Steps in bfloat16 beside float32, or the sentence that this processor has none."""
    header = ("step", "fp32 ms", "bf16 ms", "fp32 / bf16", "goal")
    if not setting.bfloat16:
        nothing = tuple(
            (case.title.removesuffix(", fp32"), "", "", "no native bfloat16 here", f"{goal}") for case, goal in BFLOAT16
        )
        return Table("bfloat16 beside float32", header, nothing)
    rows = []
    for case, goal in setting.bfloat16:
        full, half = timings[case.title], timings[case._replace(precision="bf16").title]
        name = case.title.removesuffix(", fp32")
        rows.append(
            (name, milliseconds(full.median), milliseconds(half.median), str(paired_ratio(half, full)), f"{goal}")
        )
    return Table("bfloat16 beside float32", header, tuple(rows), "The ratio is taken round by round.")


def busy_ratio(idle: Timing, busy: Timing) -> Ratio:
    """Busy time as a multiple of idle time, round by round."""
    return paired_ratio(idle, busy)


def busy_table(case: Case, timings: Mapping[str, Timing]) -> Table:
    """A step alone and beside another process, by how OpenMP's threads wait."""
    rows = []
    for name in SPINNING:
        idle, busy = timings[f"idle, {name}"], timings[f"busy, {name}"]
        goal = f"{GOAL_BUSY}" if name == SHIPPED else ""
        rows.append((name, milliseconds(idle.median), milliseconds(busy.median), str(busy_ratio(idle, busy)), goal))
    return Table(
        f"Beside one other process at nice 19 on the same cores: {case.title}",
        ("threads that wait", "idle ms", "busy ms", "busy / idle", "goal"),
        tuple(rows),
        "Each form is a process of its own, as the environment is read when torch is loaded; they take turns. The "
        "other process, a loop in Python, has a session of its own, as what another user starts.",
    )


def memory_table(memory: Sequence[Quoted], answers: Mapping[Case, Answer]) -> Table:
    """The peak of a process that takes three steps."""
    rows = []
    for quoted in memory:
        peak = answers[quoted.case].peak_mb
        rows.append(
            (
                quoted.case.title,
                f"{peak:,.0f}",
                f"{quoted.authors:,.0f}",
                f"{peak / quoted.authors:.2f}",
                str(quoted.goal),
            )
        )
    header = ("process", "now, MB", "authors, MB", "now / authors", "goal")
    note = f"Peak of resident memory of a process of {MEMORY_STEPS} steps. Authors: their code on another machine."
    return Table("Peak memory", header, tuple(rows), note)


# ---- measuring ----


def step_form(case: Case) -> tuple[Form, Counter[convolutions.Layer], Mapping[str, float]]:
    """The step as a form, its convolutions, and the profile of a step."""
    state, batch, cfg = case.state(), case.pictures(), case.run().optim
    run = partial(step, state, [batch], RATE, cfg)
    layers = convolutions.record(run)
    return timed(case.title, run), layers, kinds.profile_step(case, state)


def child_form(label: str, child: Child, steps: int, *, busy: bool) -> Form:
    """A form whose sample is the time of a child's step, alone or beside another process."""

    def sample() -> Mapping[str, float]:
        if not busy:
            return {label: child.steps(steps).seconds}
        with busy_process():
            return {label: child.steps(steps).seconds}

    return sample


def time_busy(case: Case, repeats: int, spinning: Mapping[str, Mapping[str, str]] = SPINNING) -> dict[str, Timing]:
    """Idle and busy steps by how threads wait."""
    with children({name: (case, environment) for name, environment in spinning.items()}) as started:
        forms: list[Form] = []
        for name, child in started.items():
            forms += [child_form(f"idle, {name}", child, IDLE_STEPS, busy=False)]
            forms += [child_form(f"busy, {name}", child, BUSY_STEPS, busy=True)]
        return interleave(forms, repeats)


def measure_memory(cases: Sequence[Case]) -> dict[Case, Answer]:
    """One process after the other."""
    answers = {}
    for case in cases:
        with children({case.title: (case, {})}) as started:
            answers[case] = started[case.title].steps(MEMORY_STEPS)
    return answers


def authors_forms(setting: Setting) -> list[Form]:
    """The authors' steps of the same sizes, if their code is at hand."""
    if setting.authors is None:
        return []
    make = read_authors(setting.authors)
    cases = (quoted.case for quoted in setting.times)
    return [
        timed(f"{AUTHORS} {case.title}", make(case.batch, case.height, case.width, case.boxes, case.classes))
        for case in cases
    ]


# ---- the whole ----


def read_setting(arguments: argparse.Namespace) -> Setting:
    """The sizes, all of them small with --quick."""
    times, small, memory = TIMES, SMALL, MEMORY
    bfloat16 = BFLOAT16 if native_bfloat16() else ()
    if arguments.quick:
        small = Case("small", 1, 64, 64)
        times, memory = (Quoted(Case("small", 1, 32, 64), 1.0, 0.0),), (Quoted(small, 1000, 0.75),)
        bfloat16 = tuple((small, goal) for _, goal in bfloat16[:1])
    return Setting(times, bfloat16, small, memory, rounds_of(arguments), gemm_of(arguments), arguments.authors)


def measure(arguments: argparse.Namespace) -> Findings:
    """All tables; what needs idle cores comes one after the other."""
    setting = read_setting(arguments)
    memory = measure_memory([quoted.case for quoted in setting.memory])
    busy = time_busy(setting.small, setting.repeats)
    keep_freed_memory()
    cases = [*(quoted.case for quoted in setting.times), setting.small]
    parts = {case: step_form(case) for case in cases}
    forms = [form for form, _, _ in parts.values()] + authors_forms(setting)
    for case, _ in setting.bfloat16:
        wanted = [case._replace(precision=precision) for precision in ("fp32", "bf16")]
        forms += [timed(each.title, each.make_step()) for each in wanted if each not in parts]
    layers = {case: found for case, (_, found, _) in parts.items()}
    distinct: Counter[convolutions.Layer] = sum(layers.values(), Counter())
    timings = interleave([*forms, setting.gemm.form(), *convolutions.forms(distinct)], setting.repeats)
    bare = {case: convolutions.bare_seconds(found, timings) for case, found in layers.items()}
    profiles = {case: profiled for case, (_, _, profiled) in parts.items()}
    tables = (
        step_table(setting, timings, bare),
        kind_table(cases, timings, bare, profiles),
        bfloat16_table(setting, timings),
        busy_table(setting.small, busy),
        memory_table(setting.memory, memory),
    )
    steps = {label: timing for label, timing in timings.items() if label.startswith(AUTHORS) or "Layer(" not in label}
    figures = {
        "gemm_side": setting.gemm.side,
        "seconds": figures_of({**steps, **busy}),
        "bare_seconds": {case.title: seconds for case, seconds in bare.items()},
        "profiled_seconds": {case.title: seconds for case, seconds in profiles.items()},
        "peak_mb": {case.title: answer.peak_mb for case, answer in memory.items()},
    }
    return Findings(tables, figures)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.step", __doc__)
    flags.add_argument(
        "--authors",
        type=Path,
        help="a Python file with make_authors_step(batch, height, width, boxes, classes), which returns a function "
        "that takes one step of the authors' code: measured beside ours",
    )
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))
