"""What stands in the parts of a job, counted: every picture once, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from gfl.words import counted
from infer.bulk.filesystems import Located
from infer.bulk.folder import parts_of
from infer.pipeline import Failed
from infer.rows import Category

LISTED = 1000  # failures that are named
SHOWN = 5  # ids in a sentence
ROWS = 10_000  # in memory at a time
COLUMNS = ["id", "file", "count", "complete", "failure", "detections.list.element.category_id"]
COLUMNS += ["detections.list.element.score"]


class Counts(NamedTuple):
    """What is in some parts."""

    ids: NDArray[np.int64]  # of the pictures
    failed: int
    failures: list[Failed]  # the first of them
    incomplete: int
    detections: int
    shown: Counter[str]  # detections of at least their class's threshold, by class


def count_parts(folder: Located, categories: Sequence[Category]) -> Counts:
    """Read all parts. What a damaged one held is missing."""
    ids: list[NDArray[np.int64]] = []
    failed = incomplete = detections = 0
    failures: list[Failed] = []
    shown: Counter[str] = Counter()
    for path in parts_of(folder):
        try:
            with folder.filesystem.open_input_file(path) as handle:
                batches = list(ParquetFile(handle).iter_batches(ROWS, columns=COLUMNS))
        except (OSError, pa.ArrowInvalid):
            continue
        for batch in batches:
            ids.append(batch["id"].to_numpy())
            bad = batch.filter(pc.is_valid(batch["failure"]))
            failed += bad.num_rows
            names, reasons = bad["file"].to_pylist(), bad["failure"].to_pylist()
            failures += map(Failed, names[: LISTED - len(failures)], reasons)
            incomplete += pc.sum(pc.invert(batch["complete"])).as_py() or 0
            detections += pc.sum(batch["count"]).as_py() or 0
            found = batch["detections"].flatten()
            of_category, scores = (
                found.field(name).to_numpy(zero_copy_only=False) for name in ("category_id", "score")
            )
            for category in categories:
                least = category["score_threshold"]
                shown[category["name"]] += int(((of_category == category["id"]) & (scores >= least)).sum())
    return Counts(np.concatenate([np.zeros(0, np.int64), *ids]), failed, failures, incomplete, detections, +shown)


def difference(ids: NDArray[np.int64], pictures: int) -> str | None:
    """What is wrong with ids of rows that should be 1 to `pictures`, each once, as a clause; None: nothing."""
    times = np.bincount(ids, minlength=pictures + 1)
    wrong = {
        "missing": np.flatnonzero(times[1 : pictures + 1] == 0) + 1,
        "there more than once": np.flatnonzero(times > 1),
    }
    wrong["of no picture"] = np.flatnonzero(times[pictures + 1 :]) + pictures + 1
    clauses = [
        f"{counted(len(which), 'row is', 'rows are')} {what} (id {', '.join(map(str, which[:SHOWN]))}"
        f"{', ...' if len(which) > SHOWN else ''})"
        for what, which in wrong.items()
        if len(which)
    ]
    return " and ".join(clauses) or None
