"""What a run records of an evaluation: its numbers, its detections, and the weights where they are the best so far.

Counting and writing may go on in a thread while the run does its next steps: it is handed copies, and changes nothing
that a step reads. Whoever writes to the run's folder waits for it first, so that the files are those of a run that
counts before it goes on, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from gfl.data.coco_columns import DetectionColumns
from gfl.data.coco_json import GroundTruth
from gfl.errors import first_line
from gfl.record.console import ProgressWriter, validation_line
from gfl.record.run_folder import BEST, DETECTIONS, LAST, RunFolder
from gfl.record.trackers.tracking import NOT_TRACKED, Tracking
from gfl.report.best_f1 import thresholds_by_label
from gfl.report.coco_eval import Metrics, evaluate_detections, limit_notes
from gfl.report.coco_matching import choose_backend
from gfl.settings import RunConfig


class Judged(NamedTuple):
    """What the evaluations of a run have said so far; its checkpoints hold it."""

    best: float = -1.0  # the highest AP; -1 where nothing could be measured
    best_step: int = 0  # after which the weights in best.pt were
    stale: int = 0  # evaluations since the AP last rose
    score_thresholds: tuple[float, ...] | None = None  # score of highest F1 of each class in the last evaluation


NOTHING_SAID = Judged()


class Evaluated(NamedTuple):
    """Weights that were run on the validation pictures: when, what they found, and how they are saved."""

    step: int
    epoch: int
    results: DetectionColumns  # of all ranks, by image id
    save: Callable[[str, Judged], None]  # writes a checkpoint of those weights under a name


class Outcome(NamedTuple):
    """What an evaluation came to."""

    step: int
    epoch: int
    judged: Judged
    metrics: Metrics
    is_best: bool
    notes: list[str]


class Counting(NamedTuple):
    """Where and how the evaluations of a run are counted and recorded."""

    folder: RunFolder
    truth: GroundTruth
    category_ids: Sequence[int]  # label -> category id of the truth
    max_detections: int  # of a picture that count


def record_evaluation(evaluated: Evaluated, before: Judged, counting: Counting) -> Outcome:
    """Count the detections and write what follows. Of weights of equal AP, the later are best."""
    step, epoch, results, save = evaluated
    folder, truth, category_ids, max_detections = counting
    metrics = evaluate_detections(truth, results, max_detections=max_detections)
    row = {"step": step, "epoch": epoch, **metrics.summary()}
    folder.append([row])
    folder.append_result(row)
    folder.write_json("metrics.json", metrics.as_dict())
    folder.write_json(DETECTIONS, results.rows())
    is_best, gained = before.best <= metrics.AP, before.best < metrics.AP
    judged = Judged(
        best=metrics.AP if is_best else before.best,
        best_step=step if is_best else before.best_step,
        stale=0 if gained or metrics.AP < 0 else before.stale + 1,
        score_thresholds=thresholds_by_label(list(metrics.best_f1.values()), truth.class_names, category_ids),
    )
    if is_best:
        save(BEST, judged)
    save(LAST, judged)
    return Outcome(step, epoch, judged, metrics, is_best, limit_notes(truth, results, max_detections))


def may_count_beside_steps(cfg: RunConfig, device: torch.device) -> bool:
    """Whether an evaluation may be counted while the run does its next steps.

    Not where PATIENCE must know the AP before it lets the run go on, nor by pycocotools, which leaves the interpreter
    no time for anything else; and by default not on a CPU, whose cores are the steps' own.
    """
    wanted = cfg.eval_in_background is True or (cfg.eval_in_background == "auto" and device.type != "cpu")
    return wanted and not cfg.patience and choose_backend("auto") == "hotcoco"


class Evaluations:
    """The evaluations of a run: what they have said, and at most one that is being counted beside its steps."""

    def __init__(
        self, console: ProgressWriter, epochs: int, judged: Judged = NOTHING_SAID, tracking: Tracking = NOT_TRACKED
    ) -> None:
        """epochs: that the run goes through. tracking: is told of each evaluation."""
        self.judged, self._tracking = judged, tracking
        self._console, self._epochs = console, epochs
        self._pending: Future[Outcome] | None = None

    def record(self, evaluated: Evaluated, counting: Counting) -> Outcome:
        """Count and record now."""
        self.settle()
        outcome = record_evaluation(evaluated, self.judged, counting)
        self._take_up(outcome)
        return outcome

    def begin(self, evaluated: Evaluated, counting: Counting) -> None:
        """Count and record in a thread, until `settle`. `evaluated` must hold nothing that the run changes."""
        self.settle()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluation")
        self._pending = executor.submit(record_evaluation, evaluated, self.judged, counting)
        executor.shutdown(wait=False)  # takes no other work, and ends with this one

    def settle(self) -> None:
        """Wait for what was begun, if anything was, and tell what it came to. Raises what it raised."""
        if self._pending is None:
            return
        try:
            outcome = self._pending.result()
        finally:
            if self._pending.done():  # not where Ctrl-C ended the wait: then it is still to be waited for
                self._pending = None
        self._take_up(outcome)

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """However the run ends, what was begun is recorded; where it ends by an error, that is the one to be told."""
        try:
            self.settle()
        except Exception as error:
            if kind is None:
                raise
            self._console.tell(f"note: the last evaluation was not recorded ({first_line(error)})")

    def _take_up(self, outcome: Outcome) -> None:
        self.judged = outcome.judged
        summary, best = outcome.metrics.summary(), BEST if outcome.is_best else None
        self._console.line(validation_line(max(outcome.epoch, 1), self._epochs, summary, best))
        for note in outcome.notes:
            self._console.tell(f"note: {note}")
        self._tracking.evaluation(outcome.step, summary)
