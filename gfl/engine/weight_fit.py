"""Copies the weights of a file, under this project's names, into a model's tree, and reports what was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gfl.engine.class_layer import CLASS_LAYER, ClassRows, place_rows
from gfl.errors import InputError
from gfl.tensors.variables import Variables, flatten, unflatten

COUNTER = ".num_batches_tracked"  # of batch norms; nothing reads it, for their statistics are frozen


@dataclass(frozen=True)
class Misfit:
    """A leaf that has one shape in the file and another in the model."""

    path: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]

    def __str__(self) -> str:
        if self.in_file[1:] == self.in_model[1:] and self.in_file and self.in_model:
            return f"{self.in_file[0]} -> {self.in_model[0]}"
        return f"{self.in_file} -> {self.in_model}"


class Classes(NamedTuple):
    """The names of the classes, label 0 first, by which the rows of the class layer are matched."""

    in_model: Sequence[str]
    in_file: Sequence[str] | None  # None: the file does not name them


@dataclass(frozen=True)
class LoadReport:
    """What became of every leaf of the model and every tensor of the file, by dotted path."""

    kept: tuple[str, ...]  # taken from the file
    reinitialised: tuple[Misfit, ...]  # in both, with two shapes: the model keeps its initial values
    missing: tuple[str, ...]  # in the model only, which keeps its initial values
    left_over: tuple[str, ...]  # in the file only
    in_part: tuple[str, ...] = ()  # of the class layer: some rows taken from the file, the others initial
    class_layer: str = ""  # what became of its rows, where they were matched by name

    def table(self) -> str:
        """The report as text: one line for each group of leaves with the same fate."""
        misfits = (each for each in self.reinitialised if not (self.class_layer and each.path.startswith(CLASS_LAYER)))
        rows = _rows(self.kept, "kept", depth=1) + _misfit_rows(misfits)
        rows += _rows(self.missing, "missing in the file, as initialised")
        rows += _rows(self.left_over, "left over, not in the model")
        width = max((len(group) for group, _ in rows), default=0)
        lines = [f"{group:<{width}}  {what}" for group, what in rows]
        return "\n".join(lines + [self.class_layer] * bool(self.class_layer))


def fit(
    variables: Variables,
    state: Mapping[str, Tensor],
    *,
    require_all: bool = False,
    source: str | Path = "the checkpoint",
    classes: Classes | None = None,
) -> tuple[Variables, LoadReport]:
    """Take the values of `state` wherever path and shape are those of a leaf of `variables`.

    require_all: whether every leaf must be in the file and every tensor of the file in the model, as evaluation and
    export need it: otherwise the model would be another one than was trained. source: the file's name, for errors.
    classes: match the rows of the class layer by these names; None: take the layer as a whole, as any other.

    Returns a tree like `variables`, and what became of each weight. Taken values are copied into the dtype, device and
    memory format of the leaf that they replace; leaves that are not replaced are the caller's own tensors.
    Raises InputError where no weight fits; with `require_all`, where not all do.
    """
    leaves = flatten(variables)
    rows = place_rows(leaves, state, classes.in_model, classes.in_file) if classes else None
    report = compare(leaves, state, rows)
    if all(path.endswith(COUNTER) for path in report.kept):
        raise InputError(
            f"{source} has none of the model's {len(leaves)} weights: got names like {_example(state)}, "
            f"expected names and shapes like {_example(leaves)}; give a checkpoint of this architecture"
        )
    if require_all:
        _refuse_gaps(report, source)
    values = {**state, **rows.leaves} if rows else state
    for path in report.kept + report.in_part:
        leaves[path] = torch.empty_like(leaves[path], requires_grad=False).copy_(values[path])
    return unflatten(leaves), report


def compare(leaves: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: ClassRows | None = None) -> LoadReport:
    """Compare the leaves of a model with the tensors of a file, in the model's order and then in the file's.

    rows: what becomes of the class layer, where its rows are matched by name.
    """
    shared = [path for path in leaves if path in state]
    in_part = tuple(rows.leaves) if rows and not rows.complete else ()

    def fits(path: str) -> bool:
        if rows and path.startswith(CLASS_LAYER):
            return path in rows.leaves
        return leaves[path].shape == state[path].shape

    return LoadReport(
        kept=tuple(path for path in shared if fits(path) and path not in in_part),
        reinitialised=tuple(
            Misfit(path, tuple(state[path].shape), tuple(leaves[path].shape)) for path in shared if not fits(path)
        ),
        in_part=in_part,
        class_layer=rows.text if rows else "",
        missing=tuple(path for path in leaves if path not in state and not path.endswith(COUNTER)),
        left_over=tuple(path for path in state if path not in leaves and not path.endswith(COUNTER)),
    )


def _example(state: Mapping[str, Tensor]) -> str:
    """The first weight's name and shape, as text."""
    return next((f"{path} {tuple(tensor.shape)}" for path, tensor in state.items()), "(none: it is empty)")


def _refuse_gaps(report: LoadReport, source: str | Path) -> None:
    """Raise InputError for the worst way in which a file is not of this model; do nothing when it is."""
    for misfit in report.reinitialised:
        if misfit.path.startswith(CLASS_LAYER):
            raise InputError(
                f"{source} has {misfit.in_file[0]} class channels, expected {misfit.in_model[0]} for this data set: "
                "give the annotations of the data set it was trained on, or finetune it first"
            )
    gaps = {
        "of another shape": [f"{misfit.path} {misfit}" for misfit in report.reinitialised],
        "missing in it": list(report.missing),
        "that the model lacks": list(report.left_over),
    }
    counts = [f"{len(paths)} {what} (first: {paths[0]})" for what, paths in gaps.items() if paths]
    if counts:
        raise InputError(
            f"{source} is not of this model: got weights {', '.join(counts)}, expected all to fit; "
            "give the configuration that it was trained with"
        )


def _misfit_rows(misfits: Iterable[Misfit]) -> list[tuple[str, str]]:
    """A row for each leaf, with both shapes; one for a group of more than four, as where the model's width differs."""
    rows: list[tuple[str, str]] = []
    for _, group in groupby(misfits, lambda misfit: _group(misfit.path)):
        members = list(group)
        if len(members) > 4:
            rows += _rows([misfit.path for misfit in members], "re-initialised (other shapes)")
        else:
            rows += [(misfit.path, f"re-initialised {misfit}") for misfit in members]
    return rows


def _rows(paths: Iterable[str], fate: str, depth: int = 2) -> list[tuple[str, str]]:
    """(group, how many of the paths are in it and their fate), in the order of the paths."""
    return [(group, f"{count} {fate}") for group, count in Counter(_group(path, depth) for path in paths).items()]


def _group(path: str, depth: int = 2) -> str:
    """The group of a dotted path: its first `depth` components."""
    return ".".join(path.split(".")[:depth])
