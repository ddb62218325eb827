"""The numbers of a checkpoint: from the files of its run, where these are of this very checkpoint."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError
from gfl.record.run_folder import RESULTS
from gfl.report.coco_eval import SUMMARY_NAMES

METRICS = "metrics.json"


class Result(NamedTuple):
    """What an evaluation gave, as shares of 1; -1 where there was nothing to find."""

    summary: Mapping[str, float]  # of COCO's twelve numbers those that are known, in their order
    source: str  # the file that says so
    images: int | None = None
    per_class: Mapping[str, float | None] | None = None  # AP by class name
    of_run: bool = True  # whether it is of the run's own validation set; of which it is else, the file does not say


def find_result(
    folder: Path, tree: Mapping[str, object], step: int | None, metrics: Path | None = None
) -> tuple[Result | None, str]:
    """The result of the checkpoint `tree` of a step, and what is missing in a sentence.

    A row of results.csv counts if it is of the step, and metrics.json if it has the numbers of that row: metrics.json
    is of the last evaluation of a run, best.pt of any. metrics: of an evaluation that the caller names instead.
    Raises InputError where that is no metrics.json.
    """
    if metrics is not None:
        return _read_metrics(metrics)._replace(of_run=False), ""
    if tree.get("evaluation_due") is True:
        return None, "The run stopped before these weights were evaluated."
    best = tree.get("best") if step is not None and tree.get("best_step") == step else None
    known = best if isinstance(best, float) and best >= 0 else None
    row = _row_of(folder / RESULTS, step)
    if row is None or (known is not None and not _equal(row["AP"], known)):
        if known is None:
            return None, "It was not evaluated, or what the evaluation gave is not beside the file."
        return Result({"AP": known}, "the checkpoint"), (
            f"The checkpoint holds the AP alone. The other numbers stand in {RESULTS} and {METRICS} of its run; these "
            "are not in this file's folder or are of other weights: make the card there, or measure again by "
            "`gfl.evaluate` and give `gfl.card --metrics` what that writes."
        )
    try:
        whole = _read_metrics(folder / METRICS)
    except InputError:
        return Result(row, RESULTS), f"What each class came to is not known: there is no {METRICS} beside the file."
    if not all(_equal(whole.summary.get(name, math.nan), value) for name, value in row.items()):
        return Result(row, RESULTS), (
            f"What each class came to is not known: the {METRICS} beside the file is of another evaluation of the run "
            "(`gfl.evaluate` measures it again, and `gfl.card --metrics` takes what that writes)."
        )
    return whole, ""


def _row_of(path: Path, step: int | None) -> dict[str, float] | None:
    """The twelve numbers of the last row of a results.csv that is of the step; None where there is none."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row.get("step") == str(step)]
        return {name: float(rows[-1][name] or math.nan) for name in SUMMARY_NAMES} if rows else None
    except (OSError, ValueError, KeyError, csv.Error):
        return None


def _read_metrics(path: Path) -> Result:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        summary = {name: float(content[name]) for name in SUMMARY_NAMES}
        per_class = {
            str(name): None if value is None else float(value) for name, value in dict(content["per_class"]).items()
        }
        return Result(summary, path.name, int(content["images"]), per_class)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as the metrics.json of an evaluation, expected what gfl.evaluate writes; check the "
            "name"
        ) from error


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=0, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))
