"""Weights under this project's names put into a model's tree, and a report of what was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gfl.errors import InputError
from gfl.tensors.variables import Variables, flatten, unflatten

COUNTER = ".num_batches_tracked"  # of batch norms whose statistics are frozen: nothing reads it


CLASS_LAYER = "bbox_head.gfl_cls."


@dataclass(frozen=True)
class Misfit:
    """A leaf whose shape in the file is not that of the model."""

    path: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]

    def __str__(self) -> str:
        if self.in_file[1:] == self.in_model[1:] and self.in_file and self.in_model:
            return f"{self.in_file[0]} -> {self.in_model[0]}"
        return f"{self.in_file} -> {self.in_model}"


@dataclass(frozen=True)
class LoadReport:
    """Where every leaf of the model, and every tensor of the file, ended up; dotted paths."""

    kept: tuple[str, ...]  # taken from the file
    reinitialised: tuple[Misfit, ...]  # in both, of another shape: the model's own values stay
    missing: tuple[str, ...]  # in the model only: its own values stay
    left_over: tuple[str, ...]  # in the file only

    def table(self) -> str:
        """The report as text, a line a group of leaves."""
        rows = [(group, f"{count} kept") for group, count in grouped(self.kept, depth=1).items()]
        rows += _misfit_rows(self.reinitialised)
        rows += [
            (group, f"{count} missing in the file, as initialised") for group, count in grouped(self.missing).items()
        ]
        rows += [(group, f"{count} left over, not in the model") for group, count in grouped(self.left_over).items()]
        width = max((len(group) for group, _ in rows), default=0)
        return "\n".join(f"{group:<{width}}  {what}" for group, what in rows)


def grouped(paths: Iterable[str], depth: int = 2) -> Counter[str]:
    """How many paths start with the same `depth` components, in the order they come."""
    return Counter(group_of(path, depth) for path in paths)


def group_of(path: str, depth: int = 2) -> str:
    """The first `depth` components of a dotted path."""
    return ".".join(path.split(".")[:depth])


def _misfit_rows(misfits: tuple[Misfit, ...]) -> list[tuple[str, str]]:
    """A row a leaf with both shapes; more than four in a group (another width, not another head) share one row."""
    rows: list[tuple[str, str]] = []
    for group, count in grouped(misfit.path for misfit in misfits).items():
        if count > 4:
            rows.append((group, f"{count} re-initialised (other shapes)"))
        else:
            members = [misfit for misfit in misfits if group_of(misfit.path) == group]
            rows += [(misfit.path, f"re-initialised {misfit}") for misfit in members]
    return rows


def fit(
    variables: Variables,
    state: Mapping[str, Tensor],
    *,
    require_all: bool = False,
    source: str | Path = "the checkpoint",
) -> tuple[Variables, LoadReport]:
    """A tree like `variables` with the values of `state` wherever path and shape agree, and what became of the rest.

    Values are copied into the dtype, device and memory format of the leaf they replace; leaves that stay are the
    caller's own tensors. `source` names the file in errors.

    Raises InputError when nothing fits; with `require_all` (evaluation, export) also when a leaf is missing or has
    another shape, or when the file has weights that the model lacks: such a model is another one than was trained.
    """
    own = flatten(variables)
    report = compare(own, state)
    if not any(not path.endswith(COUNTER) for path in report.kept):
        raise InputError(
            f"{source} has none of the model's {len(own)} weights: got names like {_example(state)}, "
            f"expected names and shapes like {_example(own)}; give a checkpoint of this architecture"
        )
    if require_all:
        _refuse_gaps(report, source)
    taken = set(report.kept)
    fitted = {path: _copy_into(leaf, state[path]) if path in taken else leaf for path, leaf in own.items()}
    return unflatten(fitted), report


def compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> LoadReport:
    """Sorts the leaves of a model and the tensors of a file, in the model's order and in the file's."""
    shared = [path for path in own if path in state]
    return LoadReport(
        kept=tuple(path for path in shared if own[path].shape == state[path].shape),
        reinitialised=tuple(
            Misfit(path, tuple(state[path].shape), tuple(own[path].shape))
            for path in shared
            if own[path].shape != state[path].shape
        ),
        missing=tuple(path for path in own if path not in state and not path.endswith(COUNTER)),
        left_over=tuple(path for path in state if path not in own and not path.endswith(COUNTER)),
    )


def _copy_into(leaf: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(leaf, requires_grad=False).copy_(value)


def _example(state: Mapping[str, Tensor]) -> str:
    """The first weight's name and shape, as text."""
    return next((f"{path} {tuple(tensor.shape)}" for path, tensor in state.items()), "(none: it is empty)")


def _refuse_gaps(report: LoadReport, source: str | Path) -> None:
    """One sentence for the gravest way in which a file is not this model's; silent when it is."""
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
    found = [f"{len(paths)} {what} (first: {paths[0]})" for what, paths in gaps.items() if paths]
    if found:
        raise InputError(
            f"{source} is not of this model: got weights {', '.join(found)}, expected all to fit; "
            "give the configuration that it was trained with"
        )
