"""What a precision costs: the AP of an exported file beside that of PyTorch in float32.

Where annotations cover the pictures, both are counted on the true boxes. Without them PyTorch's own detections above
`SURE` stand in for true boxes: its AP is then 1, and that of the file says how far it finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.precision import LARGEST_LOSS
from export.samples import SampleBatch, Truth
from gfl.data.coco_json import CocoDetection, GroundTruth
from gfl.report.coco_eval import evaluate_detections
from gfl.runtime.description import Arrays, Description
from gfl.runtime.result import PictureInfo, result_of

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

    def __init__(self, description: Description, truth: Truth | None) -> None:
        self.description, self.truth = description, truth
        self.pictures: list[str] = []
        self.of_file: list[CocoDetection] = []
        self.of_pytorch: list[CocoDetection] = []
        self.score_difference = 0.0

    def add(self, batch: SampleBatch, of_file: Arrays, of_pytorch: Arrays) -> None:
        """Take in the outputs for a batch: the file's (B,...), and PyTorch's without those of blanks."""
        count = len(batch.names)
        for name in (name for name in of_file if name.startswith("scores")):
            difference = np.abs(of_file[name][:count].astype(np.float64) - of_pytorch[name].astype(np.float64)).max()
            self.score_difference = float(np.maximum(self.score_difference, difference))  # a NaN stays
        if self.description.outputs == "detections":
            for index in range(count):
                number = len(self.pictures) + index
                image_id = number if self.truth is None else self.truth.image_ids[number]
                height, width = batch.image_sizes[index].tolist()
                picture = PictureInfo(batch.names[index], batch.originals_hw[index], (height, width))
                for rows, outputs in ((self.of_file, of_file), (self.of_pytorch, of_pytorch)):
                    rows += result_of(outputs, index, picture, self.description).to_coco(image_id)
        self.pictures += batch.names

    def outcome(self, max_ap_drop: float | None = None) -> Accuracy:
        """Count. max_ap_drop: the most AP that may be lost, instead of the precision's own limit."""
        limits = LARGEST_LOSS[self.description.precision]
        truth, image_ids = self.truth or self.sure_detections()
        name = truth.path.name if self.truth else f"PyTorch's detections above {SURE:g}, for want of annotations"
        pytorch, file = (
            evaluate_detections(truth, rows, image_ids=image_ids).AP for rows in (self.of_pytorch, self.of_file)
        )
        if not pytorch > 0:  # no true box, or nothing found
            none = (len(self.pictures), "", None, None)
            return Accuracy(*none, self.score_difference, self.score_difference, limits.score)
        own_limit = limits.ap if self.truth else limits.agreement
        limit = own_limit if max_ap_drop is None else max_ap_drop
        return Accuracy(len(self.pictures), name, pytorch, file, self.score_difference, pytorch - file, limit)

    def sure_detections(self) -> Truth:
        """PyTorch's detections above SURE as the true boxes, for want of annotations."""
        sure = [row for row in self.of_pytorch if row["score"] > SURE]
        image_ids = range(len(self.pictures))
        boxes_xywh = np.array([row["bbox"] for row in sure], dtype=np.float64).reshape(-1, 4)
        boxes = GroundTruth(
            path=Path("PyTorch's detections"),
            image_ids=np.array(image_ids, dtype=np.int64),
            class_names={category_id: str(category_id) for category_id in sorted(self.description.category_ids)},
            image_id=np.array([row["image_id"] for row in sure], dtype=np.int64),
            category_id=np.array([row["category_id"] for row in sure], dtype=np.int64),
            boxes_xywh=boxes_xywh,
            areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
            crowd=np.zeros(len(sure), dtype=np.bool_),
        )
        return Truth(boxes, tuple(image_ids))
