"""The mean of the weights of several checkpoints of one model, as a checkpoint.

    python -m gfl.average a.pt b.pt c.pt --output mean.pt
    python -m gfl.average runs/mine/<time> --last 5 --output mean.pt      the last epochs that KEEP_LAST = 5 kept

Of each file the weights that are evaluated and shipped are taken: the averaged ones where a run had an EMA.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gfl.config import read_text
from gfl.data.sizes import eval_short_side
from gfl.engine.checkpoints import write_checkpoint
from gfl.engine.weights import CheckpointFile, read_checkpoint
from gfl.errors import InputError
from gfl.program import status_of
from gfl.record.run_folder import EPOCH_FILE
from gfl.report.best_f1 import DEFAULT_SCORE
from gfl.say import say
from gfl.signals import interrupt_on_sigterm
from gfl.words import counted

# What the last file says of its model and data. Of a run to go on with, and of evaluations, a mean knows nothing.
TAKEN = ("config", "operative", "precision", "names", "category_ids", "trained_on", "canvases")


def average(paths: Sequence[Path]) -> dict[str, object]:
    """The tree of a .pt: float64 means of the floating tensors, all else as the last file has it.

    Raises InputError for fewer than two files, one that is named twice, and where they are not of one model.
    """
    if len(paths) < 2:
        raise InputError(
            f"got {counted(len(paths), 'file')}, expected at least 2; name more, or a run's folder with --last"
        )
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise InputError(f"got {path} more than once, expected different files; name each once")
    last = read_checkpoint(paths[-1])
    total = {name: tensor.double() for name, tensor in last.state.items() if tensor.is_floating_point()}
    steps = []
    for path in paths[:-1]:
        file = read_checkpoint(path)
        require_alike(file, last)
        for name in total:
            total[name] += file.state[name]
        steps.append(step_of(file))
    mean = {name: (sum_ / len(paths)).to(last.state[name].dtype) for name, sum_ in total.items()}
    sources = zip(map(str, paths), [*steps, step_of(last)], strict=True)
    return {
        **{name: last.extra[name] for name in TAKEN if name in last.extra},
        "names": None if last.names is None else list(last.names),
        "variables": last.state | mean,
        "averaged_from": [{"file": file, "step": step} for file, step in sources],
    }


def require_alike(file: CheckpointFile, other: CheckpointFile) -> None:
    """Raise InputError where two files have other classes, settings of the model, or weights of other shapes."""
    shapes, others = ({name: tuple(leaf.shape) for name, leaf in each.state.items()} for each in (file, other))
    for what, differs in (
        ("classes", file.names != other.names),
        ("settings of the model or of its picture sizes", settings_of(file) != settings_of(other)),
        ("names or shapes of weights", shapes != others),
    ):
        if differs:
            raise InputError(
                f"{file.path} has other {what} than {other.path}, expected files of one model; leave one of them out"
            )


def settings_of(file: CheckpointFile) -> object:
    """What decides how the model computes; None for a file without settings."""
    text = file.extra.get("config")
    if not isinstance(text, str):
        return None
    run = read_text(text).run
    return run.detector, eval_short_side(run.data), run.data.long_side


def step_of(file: CheckpointFile) -> int | None:
    """The optimiser steps behind the weights; None where the file does not say."""
    cursor = file.extra.get("cursor")
    step = cursor.get("step") if isinstance(cursor, Mapping) else None
    return step if isinstance(step, int) else None


def last_epochs(run: Path, count: int) -> list[Path]:
    """The last epochs that a run kept, in their order; InputError where it kept fewer."""
    found = {int(match[1]): path for path in run.glob("*.pt") if (match := re.fullmatch(EPOCH_FILE, path.name))}
    if not 2 <= count <= len(found):
        raise InputError(
            f"got --last {count} for {run}, which keeps {counted(len(found), 'epoch')} as epoch_N.pt, expected from 2 "
            f"to as many; lower it, or train with KEEP_LAST = {max(count, 2)}"
        )
    return [found[epoch] for epoch in sorted(found)[-count:]]


def run(arguments: argparse.Namespace) -> None:
    """Average, write and say so. Raises InputError as `average`, and for an output that is no new .pt."""
    paths, output = arguments.files, arguments.output
    if arguments.last is not None:
        if len(paths) != 1:
            raise InputError(f"got --last with {counted(len(paths), 'name')}, expected one run's folder; name it alone")
        paths = last_epochs(paths[0], arguments.last)
    if output.suffix != ".pt":
        raise InputError(f"got --output {output}, expected the name of a .pt; name it {output.with_suffix('.pt')}")
    if output.exists():
        raise InputError(f"{output} is there already, expected a new file; give another --output, or remove it")
    write_checkpoint(output, average(paths))
    say(f"wrote {output}: the mean of {', '.join(map(str, paths))}")
    say(
        "note: it was not measured, and the score thresholds of the files are of other weights, so each class is shown "
        f"from {DEFAULT_SCORE:g} on; measure it: python -m gfl.evaluate --checkpoint {output}"
    )


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m gfl.average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("files", type=Path, nargs="+", help="checkpoints of one model; with --last, a run's folder")
    flags.add_argument("--last", type=int, metavar="K", help="average the last K epochs that the run kept")
    flags.add_argument("--output", type=Path, required=True, help="the .pt to write")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Average as the command line says; 0, 2 on a user's mistake, 128 and its number when a signal stops it."""
    return status_of(lambda: run(parser().parse_args(argv)), stopped="stopped; nothing was written")


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())
