"""What a precision costs: the AP of an exported file beside that of PyTorch in float32.

Where annotations cover the pictures both are counted on the true boxes. Without them PyTorch's own detections above
`SURE` are taken as the truth: its AP is then 1, and that of the file says how far it finds the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.precision import LARGEST_LOSS
from export.samples import SampleBatch, Truth
from gfl.files import to_json
from gfl.report.coco_eval import CocoResult, evaluate_detections
from gfl.runtime.description import Arrays, Description
from gfl.runtime.result import CocoDetection, PictureInfo, result_of

SURE = 0.3  # the score from which a detection of PyTorch's is taken as true


@dataclass(frozen=True)
class Accuracy:
    """What the file loses; `loss` is of the AP, or of a score where no AP could be counted."""

    pictures: int
    truth: str  # what the AP was counted on; empty where it could not be
    pytorch_ap: float | None
    file_ap: float | None
    score_difference: float  # largest of the file's scores from PyTorch's, by rank
    loss: float
    limit: float  # the most that may be lost

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.loss <= self.limit

    def __str__(self) -> str:
        if self.file_ap is None or self.pytorch_ap is None:
            return (
                f"AP could not be counted on {self.pictures} pictures (no true box, nothing found, or outputs without "
                f"detections): scores differ from PyTorch's by up to {self.loss:.2g}, at most {self.limit:g} may be"
            )
        return (
            f"AP {self.file_ap:.4f}, PyTorch in float32 has {self.pytorch_ap:.4f}: {-self.loss:+.4f}, at most "
            f"{self.limit:g} may be lost; {self.pictures} pictures, truth: {self.truth}"
        )


class Comparison:
    """Collects what the file and PyTorch find, a batch at a time."""

    def __init__(self, about: Description, truth: Truth | None) -> None:
        self.about, self.truth = about, truth
        self.pictures: list[str] = []
        self.ours: list[CocoDetection] = []
        self.theirs: list[CocoDetection] = []
        self.score_difference = 0.0

    def add(self, batch: SampleBatch, ours: Arrays, theirs: Arrays) -> None:
        """Take in a batch: `ours` is the file's (B,...), `theirs` PyTorch's without those of blanks."""
        count = len(batch.names)
        for name in (name for name in ours if name.startswith("scores")):
            difference = np.abs(ours[name][:count].astype(np.float64) - theirs[name].astype(np.float64)).max()
            self.score_difference = float(np.maximum(self.score_difference, difference))  # a NaN stays
        if self.about.outputs == "detections":
            for index in range(count):
                image_id = self.image_id(len(self.pictures) + index)
                height, width = batch.image_sizes[index].tolist()
                placed = PictureInfo(batch.names[index], batch.originals_hw[index], (height, width))
                self.ours += result_of(ours, index, placed, self.about).to_coco(image_id)
                self.theirs += result_of(theirs, index, placed, self.about).to_coco(image_id)
        self.pictures += batch.names

    def image_id(self, place: int) -> int:
        """The id of a sample, by its place among all."""
        return place if self.truth is None else self.truth.image_ids[place]

    def outcome(self, max_ap_drop: float | None = None) -> Accuracy:
        """Count. max_ap_drop: the most that may be lost, instead of the precision's own limit."""
        limits = LARGEST_LOSS[self.about.precision]
        counted = self._on_truth() if self.truth else self._on_pytorch()
        usual = limits.ap if self.truth else limits.agreement
        if counted is None:
            none = (len(self.pictures), "", None, None)
            return Accuracy(*none, self.score_difference, self.score_difference, limits.score)
        words, pytorch, file = counted
        limit = usual if max_ap_drop is None else max_ap_drop
        return Accuracy(len(self.pictures), words, pytorch, file, self.score_difference, pytorch - file, limit)

    def _on_truth(self) -> tuple[str, float, float] | None:
        """The truth in words, PyTorch's AP and the file's; None where PyTorch's is 0 or there is no true box."""
        if self.truth is None:
            return None
        annotations, ids = self.truth
        pytorch = average_precision(annotations, self.theirs, ids)
        return (annotations.name, pytorch, average_precision(annotations, self.ours, ids)) if pytorch > 0 else None

    def _on_pytorch(self) -> tuple[str, float, float] | None:
        """`_on_truth` with PyTorch's sure detections as the true boxes; None where there are none."""
        sure = [row for row in self.theirs if row["score"] > SURE]
        if not sure:
            return None
        ids = range(len(self.pictures))
        with tempfile.TemporaryDirectory() as folder:
            annotations = Path(folder) / "pytorch.json"
            annotations.write_text(
                to_json(
                    {
                        "images": [{"id": image_id} for image_id in ids],
                        "categories": [{"id": category} for category in self.about.category_ids],
                        "annotations": sure,
                    }
                ),
                encoding="utf-8",
            )
            pytorch, file = (average_precision(annotations, found, ids) for found in (self.theirs, self.ours))
        return f"PyTorch's detections above {SURE:g}, for want of annotations", pytorch, file


def average_precision(annotations: Path, found: Sequence[CocoDetection], image_ids: Sequence[int]) -> float:
    """AP of detections on some pictures; -1 where these hold no true box."""
    rows: list[CocoResult] = [{**row} for row in found]
    return evaluate_detections(annotations, rows, image_ids=image_ids).AP
