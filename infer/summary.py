"""What a run says of itself: the content of summary.json, and the lines that are printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gfl.runtime.model import Model
from gfl.runtime.open import EXPORTS
from gfl.runtime.providers import ProviderReport
from gfl.words import class_shares, counted, headline
from infer.head import Head
from infer.recorder import Recorder
from infer.rows import Tally
from infer.sources import Files, Inputs
from infer.timings import Timings

PRINTED_FAILURES = 10
PRINTED_CLASSES = 5

Summary = dict[str, object]


def summarise(
    model: Model,
    head: Head,
    recorder: Recorder,
    timings: Timings,
    report: ProviderReport,
    *,
    resumed: int,
    notes: Sequence[str],
) -> Summary:
    """The content of summary.json. Counts are of the whole run, times are wall time since it was last resumed.

    resumed: pictures that were done before. img_per_s: pictures answered since / seconds, from the first reading to the
    last result. p50_ms, p95_ms: one run of the model on a whole batch; the first run, which also sets up, is left out
    when there are others. share: of the time spent in reading and resizing, in the model, and in making and writing
    results, summed over the threads.
    """
    tally = recorder.tally
    runs_ms = 1000 * np.array(timings.run_s[1:] or timings.run_s)
    return {
        "images": tally.images,
        "failed": [{"file": failure.source, "reason": failure.reason} for failure in tally.failed],
        "detections": tally.detections,
        "detections_of_score": dict(tally.shown.most_common()),
        "distinct": tally.distinct,
        "incomplete": tally.incomplete,
        "resumed": resumed,
        "seconds": timings.seconds,
        "img_per_s": rate(tally, timings, resumed),
        "first_result_s": timings.first_s,
        "p50_ms": quantile(runs_ms, 0.50),
        "p95_ms": quantile(runs_ms, 0.95),
        "share": timings.shares,
        "canvases": {f"{height}x{width}": load._asdict() for (height, width), load in sorted(timings.loads.items())},
        "provider": report.provider,
        "nodes_by_provider": report.nodes_by_provider,
        "shrunk": {"pictures": timings.shrinkage.pictures, "to": timings.shrinkage.least},
        "notes": [*report.notes, *notes, *timings.notes],
        **{key: value for key, value in head.items() if key != "categories"},
        "model": str(model.path),
    }


def quantile(values: NDArray[np.float64], share: float) -> float | None:
    """np.quantile's value, between two values by a straight line; None of none. That one imports for 15 ms first."""
    if not len(values):
        return None
    return float(np.interp(share * (len(values) - 1), np.arange(len(values)), np.sort(values)))


def rate(tally: Tally, timings: Timings, resumed: int) -> float:
    """Pictures a second, of those that this run answered; without those that failed where none was resumed."""
    answered = tally.pictures - resumed if resumed else tally.images
    return answered / timings.seconds if timings.seconds else 0.0


def head_lines(model: Model, inputs: Inputs, shard: tuple[int, int] | None) -> Iterator[str]:
    """What is known before the first picture."""
    names = model.description.names
    classes = counted(len(names), "class", "classes")
    listed = ", ".join((*names[:PRINTED_CLASSES], *(["..."] if len(names) > PRINTED_CLASSES else [])))
    sizes = "each picture's own" if model.canvases is None else "  ".join(f"{h}x{w}" for h, w in model.canvases)
    precision = model.description.precision
    yield headline("model", str(model.path), precision, f"{classes} ({listed})", f"{sizes}, batch {model.batch}")
    part = f"shard {shard[0]} of {shard[1]}" if shard else ""
    if isinstance(inputs, Files):
        size = counted(inputs.total, "picture")
    else:
        size = counted(inputs.total, "frame") if inputs.total else "frames, whose number is not stated"
    yield headline("input", size, part)


def result_lines(
    model: Model, recorder: Recorder, timings: Timings, report: ProviderReport, score: float | None, resumed: int
) -> Iterator[str]:
    """What came out, how fast, and where it ran."""
    exported = model.path.is_dir() or model.path.suffix in EXPORTS
    limits = model.description.thresholds
    tally = recorder.tally
    shown = tally.shown
    classes = class_shares(shown) if shown else ""
    least = "their class's threshold" if score is None else f"{score:g}"
    detections = (
        f"{counted(sum(shown.values()), 'detection')} of a score of {least} or more, {tally.distinct:,} distinct"
    )
    failed = f"{len(tally.failed)} failed" if tally.failed else ""
    before = f"{counted(resumed, 'picture')} of a run before" if resumed else ""
    yield headline("found", counted(tally.images, "image"), detections, classes, failed, before)
    if tally.incomplete:
        if limits.nms == "hard":
            reason = f"was cut short after {counted(limits.rounds, 'round')} or {limits.candidates:,} candidates"
            mend = f"rounds = {min(2 * limits.rounds, 1000)}' 'PredictConfig.candidates = {2 * limits.candidates}"
        else:
            reason = f"took {limits.candidates:,} candidates of more"
            mend = f"candidates = {2 * limits.candidates}"
        yield (
            f"note: the detections of {counted(tally.incomplete, 'image')} may differ from those of full NMS, which "
            f"{reason}; {'export it again' if exported else 'run it'} with --gin_bindings 'PredictConfig.{mend}'"
        )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in timings.shares.items())
    yield headline("speed", f"{rate(tally, timings, resumed):.1f} img/s", shares)
    nodes = report.nodes_by_provider
    # How many nodes only matters where several share them: a runtime's own count is not that of the file.
    counts = [f"{name} {counted(count, 'node')}" for name, count in nodes.items()]
    yield headline("ran on", report.provider, ", ".join(counts) if len(counts) > 1 else "")


def failure_lines(tally: Tally) -> Iterator[str]:
    """Why pictures were passed over, the first few."""
    for failure in tally.failed[:PRINTED_FAILURES]:
        yield f"passed over: {failure.reason}"
    if len(tally.failed) > PRINTED_FAILURES:
        yield f"passed over: {len(tally.failed) - PRINTED_FAILURES} more, see summary.json"
