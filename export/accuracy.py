"""What a precision costs: the AP of one side, such as an exported file, beside that of PyTorch in float32.

Where annotations cover the pictures, both are counted on the true boxes. Without them PyTorch's own detections above
`SURE` stand in for true boxes: its AP is then 1, and that of the other side says how far it finds the same. What the AP
does not see is compared by itself: numbers that are none, edge_std, complete, and outputs without detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.matching import detections_of, match, not_finite
from export.precision import LARGEST_LOSS, LEFT_OVER
from export.samples import SampleBatch, Truth
from gfl.data.coco_json import CocoDetection, GroundTruth
from gfl.report.coco_eval import evaluate_detections
from gfl.runtime.description import Arrays, Description
from gfl.runtime.result import PictureInfo, result_of

SURE = 0.3  # the score from which a detection of PyTorch's is taken as true
NEAR = 8.0  # px: how far a box may be rounded away and still be the same detection


@dataclass(frozen=True)
class Accuracy:
    """What a side loses; `loss` is of the AP, or of a score where no AP could be counted."""

    side: str  # that is compared with PyTorch in float32
    pictures: int
    truth: str  # what the AP was counted on; empty where it could not be
    pytorch_ap: float | None
    file_ap: float | None
    score_difference: float  # largest of the side's scores from PyTorch's, by rank
    loss: float
    limit: float  # the most that may be lost
    errors: dict[str, float]  # by output: root of the mean square difference, as a share of that of PyTorch's values
    found: int  # detections of both sides; 0 too where the outputs hold none
    failures: tuple[str, ...]  # besides the loss
    reference: str = "PyTorch"

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.loss <= self.limit and not self.failures

    def __str__(self) -> str:
        if self.file_ap is None or self.pytorch_ap is None:
            worst = max(self.errors, key=lambda name: self.errors[name], default="")
            errors = (
                f"; the largest error of an output is {self.errors[worst]:.2g} of its size ({worst})" if worst else ""
            )
            return (
                f"AP of {self.side} could not be counted on {self.pictures} pictures (no true box, nothing found, or "
                f"outputs without detections): scores differ from {self.reference}'s by up to {self.loss:.2g}, at most "
                f"{self.limit:.2g} may be{errors}"
            )
        return (
            f"AP of {self.side} {self.file_ap:.4f}, {self.reference} in float32 has {self.pytorch_ap:.4f}: "
            f"{-self.loss:+.4f}, at most {self.limit:.2g} may be lost; {self.pictures} pictures, truth: {self.truth}"
        )

    def explained(self) -> list[str]:
        """Why it did not pass, a sentence each."""
        return [*self.failures, *([] if self.loss <= self.limit else [str(self)])]


class SquareError:
    """The mean square difference of arrays that come part by part, as a share of that of the expected values."""

    def __init__(self) -> None:
        self.error, self.scale = 0.0, 0.0

    def add(self, values: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
        """Take in a part."""
        wanted = expected.astype(np.float64)
        self.error += float(np.square(values.astype(np.float64) - wanted).sum())
        self.scale += float(np.square(wanted).sum())

    def root(self) -> float:
        """The root of the share; 0 where nothing was taken in."""
        return float(np.sqrt(self.error / max(self.scale, 1e-12)))


class Comparison:
    """Collects what one side and PyTorch in float32 find, a batch at a time."""

    def __init__(
        self, description: Description, truth: Truth | None, side: str = "the file", reference: str = "PyTorch"
    ) -> None:
        self.description, self.truth, self.side, self.reference = description, truth, side, reference
        self.pictures: list[str] = []
        self.of_file: list[CocoDetection] = []
        self.of_pytorch: list[CocoDetection] = []
        self.score_difference, self.best_score = 0.0, 0.0
        self.errors: dict[str, SquareError] = {}
        self.other_complete = 0  # pictures whose `complete` differs
        self.failures: list[str] = []

    def add(self, batch: SampleBatch, of_file: Arrays, of_pytorch: Arrays) -> None:
        """Take in the outputs for a batch: the file's (B,...), and PyTorch's without those of blanks."""
        count = len(batch.names)
        for name, array in of_file.items():
            if name.startswith("scores"):
                difference = np.abs(array[:count].astype(np.float64) - of_pytorch[name].astype(np.float64)).max()
                self.score_difference = float(np.maximum(self.score_difference, difference))  # a NaN stays
                self.best_score = float(np.maximum(self.best_score, of_pytorch[name].max()))
        self.failures += not_finite(batch.names, of_file, self.side)
        self.failures += not_finite(batch.names, of_pytorch, f"{self.reference} in float32")
        if self.description.outputs == "detections":
            self.add_detections(batch, of_file, of_pytorch)
        else:
            for name, array in of_file.items():
                self.errors.setdefault(name, SquareError()).add(array[:count], of_pytorch[name])
        self.pictures += batch.names

    def add_detections(self, batch: SampleBatch, of_file: Arrays, of_pytorch: Arrays) -> None:
        """Take in the detections for a batch."""
        for index in range(len(batch.names)):
            number = len(self.pictures) + index
            image_id = number if self.truth is None else self.truth.image_ids[number]
            height, width = batch.image_sizes[index].tolist()
            picture = PictureInfo(batch.names[index], batch.originals_hw[index], (height, width))
            for rows, outputs in ((self.of_file, of_file), (self.of_pytorch, of_pytorch)):
                rows += result_of(outputs, index, picture, self.description).to_coco(image_id)
            ours, theirs = detections_of(of_file, index), detections_of(of_pytorch, index)
            for i, j in match(ours, theirs, NEAR):
                for name in ("edge_std", "scores"):
                    values, expected = getattr(ours, name)[i], getattr(theirs, name)[j]
                    self.errors.setdefault(name, SquareError()).add(values, expected)
            self.other_complete += int(of_file["complete"][index] != of_pytorch["complete"][index])

    def outcome(self, max_ap_drop: float | None = None) -> Accuracy:
        """Count. max_ap_drop: the most AP that may be lost, instead of the precision's own limits."""
        limits = LARGEST_LOSS[self.description.precision]
        truth, image_ids = self.truth or self.sure_detections()
        name = (
            truth.path.name if self.truth else f"{self.reference}'s detections above {SURE:g}, for want of annotations"
        )
        # A NaN has no place in an order of scores: where there is one, that is said and nothing is counted.
        pytorch, file = (
            0.0 if self.failures else evaluate_detections(truth, rows, image_ids=image_ids).AP
            for rows in (self.of_pytorch, self.of_file)
        )
        if pytorch > 0:
            own_limit = min(limits.ap, limits.share * pytorch) if self.truth else limits.agreement
            limit = own_limit if max_ap_drop is None else min(max_ap_drop, (1 - LEFT_OVER) * pytorch)
            counted: tuple[str, float | None, float | None] = (name, pytorch, file)
            loss = pytorch - file
        else:  # no true box, or nothing found
            loss, limit = self.score_difference, min(limits.score, limits.score_share * self.best_score)
            counted = ("", None, None)
        return Accuracy(
            self.side,
            len(self.pictures),
            *counted,
            self.score_difference,
            loss,
            limit,
            {name: error.root() for name, error in self.errors.items()},
            len(self.of_file) + len(self.of_pytorch),
            (*self.failures, *self.differences()),
            self.reference,
        )

    def differences(self) -> Iterator[str]:
        """What differs too much besides AP and scores, a sentence each."""
        limits = LARGEST_LOSS[self.description.precision]
        own: dict[str, float] = {}
        if self.description.outputs == "detections":
            # An AP is blind to scores that change all alike, and to how sure an edge is.
            own = {"edge_std": limits.std_error, "scores": limits.score_error}
        for name, error in self.errors.items():
            limit = own.get(name, limits.error)
            if not error.root() <= limit:
                yield (
                    f"{name} of {self.side} is {error.root():.2g} of its size away from {self.reference}'s, at most "
                    f"{limit:g}"
                )
        if self.other_complete > limits.complete * len(self.pictures):
            yield (
                f"complete of {self.side} (whether NMS came to its end) is not {self.reference}'s on "
                f"{self.other_complete} of {len(self.pictures)} pictures, at most {limits.complete:.0%} may differ"
            )

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
