"""What a run says of itself: the content of summary.json, and the lines that are printed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gfl.runtime.model import Model
from gfl.runtime.open import files_of, kind_of
from gfl.runtime.providers import ProviderReport
from gfl.version import VERSION
from gfl.words import class_shares, counted, headline
from infer.pipeline import Timings
from infer.recorder import Recorder
from infer.sources import Files, Inputs

PRINTED_FAILURES = 10
PRINTED_CLASSES = 5

Summary = dict[str, object]


def summarise(
    model: Model,
    recorder: Recorder,
    timings: Timings,
    report: ProviderReport,
    *,
    inputs: Inputs,
    shard: tuple[int, int] | None,
    score: float | None,
    annotations: Path | None,
) -> Summary:
    """The content of summary.json. Times are wall time.

    img_per_s: pictures read / seconds, from the first reading to the last result. p50_ms, p95_ms: one run of the model
    on a whole batch; the first run, which also sets up, is left out when there are others. share: of the time spent in
    reading and resizing, in the model, and in making and writing results, summed over the threads.
    """
    runs_ms = 1000 * np.array(timings.run_s[1:] or timings.run_s)
    return {
        "images": recorder.images,
        "failed": [{"file": failure.source, "reason": failure.reason} for failure in recorder.failed],
        "detections": recorder.detection_count,
        "score": score,
        "detections_of_score": dict(recorder.shown.most_common()),
        "incomplete": recorder.incomplete,
        "seconds": timings.seconds,
        "img_per_s": recorder.images / timings.seconds,
        "first_result_s": timings.first_s,
        "p50_ms": float(np.percentile(runs_ms, 50)) if len(runs_ms) else None,
        "p95_ms": float(np.percentile(runs_ms, 95)) if len(runs_ms) else None,
        "share": timings.shares,
        "batch": model.batch,
        "canvases": {f"{height}x{width}": load._asdict() for (height, width), load in sorted(timings.loads.items())},
        "provider": report.provider,
        "nodes_by_provider": report.nodes_by_provider,
        "shrunk": {"pictures": timings.shrinkage.pictures, "to": timings.shrinkage.least},
        "notes": [*report.notes, *inputs.notes, *timings.notes],
        "model": str(model.path),
        "model_sha256": digest(model.path),
        "input_sha256": inputs.digest if isinstance(inputs, Files) else None,
        "annotations": annotations.name if annotations else None,
        "shard": {"index": shard[0], "count": shard[1]} if shard else None,
        "gfl_version": VERSION,
    }


def digest(path: Path) -> str:
    """sha256 of a model's file, or of its files in a folder by name."""
    total = hashlib.sha256()
    for file in files_of(path, kind_of(path)):
        with open(file, "rb") as handle:
            while block := handle.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def head_lines(model: Model, inputs: Inputs, shard: tuple[int, int] | None) -> Iterator[str]:
    """What is known before the first picture."""
    names = model.description.names
    classes = counted(len(names), "class", "classes")
    listed = ", ".join((*names[:PRINTED_CLASSES], *(["..."] if len(names) > PRINTED_CLASSES else [])))
    sizes = "each picture's own" if model.canvases is None else "  ".join(f"{h}x{w}" for h, w in model.canvases)
    precision = model.description.precision
    yield headline("model", str(model.path), precision, f"{classes} ({listed})", f"{sizes}, batch {model.batch}")
    part = f"shard {shard[0]} of {shard[1]}" if shard else ""
    yield headline("input", counted(inputs.total, "picture" if isinstance(inputs, Files) else "frame"), part)


def result_lines(recorder: Recorder, timings: Timings, report: ProviderReport, score: float | None) -> Iterator[str]:
    """What came out, how fast, and where it ran."""
    shown = recorder.shown
    classes = class_shares(shown) if shown else ""
    least = "their class's threshold" if score is None else f"{score:g}"
    detections = f"{counted(sum(shown.values()), 'detection')} of a score of {least} or more"
    failed = f"{len(recorder.failed)} failed" if recorder.failed else ""
    yield headline("found", counted(recorder.images, "image"), detections, classes, failed)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in timings.shares.items())
    yield headline("speed", f"{recorder.images / timings.seconds:.1f} img/s", shares)
    nodes = report.nodes_by_provider
    one_provider = nodes.keys() <= {report.provider}
    counts = [f"{'' if one_provider else name + ' '}{counted(count, 'node')}" for name, count in nodes.items()]
    yield headline("ran on", report.provider, ", ".join(counts))


def failure_lines(recorder: Recorder) -> Iterator[str]:
    """Why pictures were passed over, the first few."""
    for failure in recorder.failed[:PRINTED_FAILURES]:
        yield f"passed over: {failure.reason}"
    if len(recorder.failed) > PRINTED_FAILURES:
        yield f"passed over: {len(recorder.failed) - PRINTED_FAILURES} more, see summary.json"
