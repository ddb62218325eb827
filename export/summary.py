"""What an export prints: the file, its inputs and outputs, how it compares with PyTorch, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from export.half import LARGEST
from export.parity import UNTRIED, Parity
from export.request import Request
from export.validation import validation_split


class Written(NamedTuple):
    """An exported file, and what is to be said of it."""

    path: Path
    form: str  # such as 'opset 17, IR 8, 540 nodes'
    values: tuple[str, ...]  # its inputs and outputs, a line each
    outcome: Parity | None  # of the comparison with its checkpoint; None when none was asked for
    report: Path  # on the comparison
    seconds: float  # that the export took
    remarks: tuple[str, ...] = ()


def summary(written: Written) -> Iterator[str]:
    """What is printed of one file, line by line."""
    path, outcome = written.path, written.outcome
    yield f"{path}: {path.stat().st_size / 1e6:.1f} MB, {written.form}, {written.seconds:.0f} s"
    yield from (f"  {value}" for value in written.values)
    if outcome is None:
        yield "  not compared with its checkpoint (--skip_parity)"
    else:
        yield from (f"  {line}" for line in [*map(str, outcome.accuracies)] or [agreement(outcome)])
        if outcome.largest_half is not None:
            held = "the largest value inside in float16 is {:.3g} ({}); it holds up to {:.0f}"
            yield "  " + held.format(*outcome.largest_half, LARGEST)
        if outcome.untried:
            yield f"  unchecked: {UNTRIED.partition(';')[0]}"
        elif outcome.lowered:
            yield "  nothing was detected above the score threshold: what was compared lies below it"
        yield f"  report: {written.report}"
    yield from (f"  {remark}" for remark in written.remarks)


def agreement(outcome: Parity) -> str:
    """One line on a comparison by number that found no failure."""
    largest = ", ".join(f"{name} {difference:.1e}" for name, difference in outcome.largest.items())
    parts = [f"agrees with {outcome.reference} on {len(outcome.pictures)} pictures"]
    if outcome.matched:
        parts.append(f"{outcome.matched} detections matched")
    parts.append(f"largest difference: {largest or 'none'}")
    if outcome.intermediates:
        inside = max(outcome.intermediates.values())
        parts.append(f"{len(outcome.intermediates)} tensors inside within {inside:.1e} of their largest value")
    if outcome.excused:
        parts.append(f"{len(outcome.excused)} detections too near a limit to tell")
    return "; ".join(parts)


def next_command(request: Request) -> str:
    """The command that counts the AP of what was written."""
    files = list(request.files.values())
    exported = files[0] if len(files) == 1 else files[0].parent
    split = validation_split(request.model.run.data)
    annotations, images = map(str, split or ("ANNOTATIONS.json", "PICTURES"))
    flag = "--onnx" if files[0].suffix == ".onnx" else "--checkpoint"
    return shlex.join(
        ["python", "-m", "gfl.evaluate", flag, str(exported), "--annotations", annotations, "--images", images]
    )
