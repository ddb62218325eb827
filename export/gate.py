"""A converted file against what it was made of, run in its own runtime: outputs, AP, time and size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median

from export import parity
from export.accuracy import Accuracy, Comparison
from export.compare import Compared, compare_outputs
from export.parity import Parity
from export.samples import SampleBatch, batches, draw_samples, read_samples
from export.sources import Pictures, Source, run_file
from export.summary import agreement
from gfl.class_names import map_classes
from gfl.runtime.description import Description
from gfl.runtime.finish import finished
from gfl.runtime.model import StaticFile

NOTHING = f"{parity.UNTRIED.partition(';')[0]}; give --images with objects in them"
TIMED = 10  # runs of each side, one after the other, after two that are not counted


@dataclass(frozen=True)
class Verdict:
    """What was found of a converted file."""

    outcome: Parity  # in float32, of the outputs as they come; without comparisons in other precisions
    accuracy: Accuracy
    ms: float  # a run, the median
    rival_ms: float  # of what it was made of, in between
    rival: str  # that runtime
    threads: int

    @property
    def failures(self) -> list[str]:
        """Why the file must not be used, a sentence each."""
        untried = [] if self.accuracy.found else [NOTHING]
        return [*self.outcome.failures, *self.accuracy.explained(), *untried]

    def lines(self) -> Iterator[str]:
        """What is printed."""
        if self.outcome.pictures:
            yield agreement(self.outcome)
        yield str(self.accuracy)
        yield (
            f"{self.ms:.1f} ms a run beside {self.rival_ms:.1f} ms of {self.rival}, "
            f"{self.ms / self.rival_ms:.2f} times as long; threads: {self.threads}"
        )

    def content(self) -> dict[str, object]:
        """What the report holds."""
        return {
            "reference": self.outcome.reference,
            "tolerances": {**parity.TOLERANCES, "margin": parity.MARGIN, "times": self.outcome.scale},
            **{name: getattr(self.outcome, name) for name in ("largest", "matched", "excused")},
            "accuracy": asdict(self.accuracy),
            "ms": self.ms,
            "beside": {"runtime": self.rival, "ms": self.rival_ms},
            "threads": self.threads,
        }


def judge(
    file: StaticFile,
    source: Source,
    pictures: Pictures,
    threads: int,
    scale: float = 1.0,
    max_ap_drop: float | None = None,
) -> Verdict:
    """Run the pictures through both sides and compare; scale: of the tolerances in float32.

    max_ap_drop: the most AP that a smaller type may lose, instead of its own limits.
    """
    about = described_for(file.description, pictures)
    outcome = Parity(reference=source.reference, scale=scale)
    comparison = Comparison(replace(about, outputs="detections"), pictures.truth, "the file", source.reference)
    for batch in sample_batches(pictures, about):
        ours, theirs = run_file(file, batch), source.run_reference(batch)
        if about.precision == "fp32":
            compare_outputs(outcome, Compared(batch, ours, theirs), about)
        sizes = batch.image_sizes[: len(batch.names)]
        comparison.add(batch, finished(ours, sizes, about), finished(theirs, sizes, about))
    parity.check_rivals(outcome)
    ms, rival_ms = time_both(file, source.rival, next(sample_batches(pictures, about)))
    return Verdict(outcome, comparison.outcome(max_ap_drop), ms, rival_ms, source.rival_name, threads)


def described_for(description: Description, pictures: Pictures) -> Description:
    """The description with the category ids of the true boxes, by name; InputError where those are of other classes."""
    if pictures.truth is None:
        return description
    boxes = pictures.truth.boxes
    ids = map_classes(description.names, boxes.class_names, str(boxes.path)).category_ids
    return replace(description, category_ids=tuple(-1 if each is None else each for each in ids))


def sample_batches(pictures: Pictures, about: Description) -> Iterator[SampleBatch]:
    """The pictures as a file takes them."""
    samples = draw_samples(about.size, pictures.samples)
    if pictures.files:
        samples = read_samples(pictures.files, about.size, about.short_side, about.long_side)
    return batches(samples, about.size, about.batch)


def time_both(file: StaticFile, rival: StaticFile, batch: SampleBatch) -> tuple[float, float]:
    """Milliseconds of a run of each, in turns: what else the machine does then weighs on both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(2 + TIMED):
        for side, taken in zip((file, rival), times, strict=True):
            started = time.perf_counter()
            side.run(batch.images, batch.image_sizes)
            taken.append(1000 * (time.perf_counter() - started))
    return median(times[0][2:]), median(times[1][2:])
