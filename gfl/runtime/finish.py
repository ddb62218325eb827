"""The rest of a detector whose file ends at the boxes and scores of all cells: the choice of detections, in NumPy.

It is `gfl.model.postprocess.detect` after `decode`, with greedy NMS in place of rounds that approach it. Shapes: B
picture, A anchor, K class, M pair of an anchor and a class that enters NMS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, first_line
from gfl.runtime.decode import decode_raw
from gfl.runtime.description import Arrays, Description, Thresholds
from gfl.runtime.merging import Floats, Found, Merge, merge_runs
from gfl.runtime.model import StaticFile
from gfl.runtime.providers import ProviderReport

NO_SPREAD = "the spread of the edges (edge_std) is 0: a file of decoded outputs does not say it"
# Settings of PredictConfig that this part does not follow. Boxes that are decoded have left out the padding already.
NOT_FOLLOWED = {"decoded": "keep_background|nms_pre", "raw": "keep_background|nms_pre|keep_padding_cells"}
RULES = {"hard": "nms"}  # what merging calls the rules that it names otherwise


def require_followed(about: Description, path: Path) -> None:
    """Raise InputError for a file of a setting that this part does not follow, and of other outputs than it takes."""
    if about.outputs not in NOT_FOLLOWED:
        raise InputError(f"{path} says that it gives {about.outputs!r}, expected decoded or raw; export it again")
    if found := re.search(rf"({NOT_FOLLOWED[about.outputs]}) = (?!False\b|None\b|0\b)\S+", about.config):
        raise InputError(
            f"{path} gives {about.outputs} outputs and has {found[0]}, which the choice of detections in NumPy does "
            "not follow; take the default, or a format of --outputs detections, and export it again"
        )


def finish(decoded: Arrays, limits: Thresholds) -> Arrays:
    """Boxes (B,A,4) and scores (B,A,K) of all cells -> the outputs of a detector.

    `edge_std` is 0 unless the file gives it (B,A,4). `complete` is 0 where pairs beyond the M best could have counted.
    """
    boxes, scores = (decoded[name].astype(np.float32) for name in ("boxes", "scores"))
    spreads = decoded.get("edge_std", np.zeros_like(boxes)).astype(np.float32)
    pictures = [_best_pairs(*each, limits) for each in zip(boxes, scores, spreads, strict=True)]
    rule = Merge(
        RULES.get(limits.nms, limits.nms),
        limits.nms_iou,
        limits.soft_sigma,
        limits.soft_min_score,
        limits.class_agnostic,
    )
    whole: Arrays = {"complete": np.ones(len(pictures), np.int32), "scores": np.zeros((len(pictures), 0))}
    outputs = merge_runs([pictures], [whole], rule, limits.max_detections)
    passing = (scores > limits.score).sum(axis=(1, 2))
    full = outputs["count"] == limits.max_detections
    if limits.nms != "hard":  # what is left out might have decayed less than the last that was taken
        worst = np.array([found.scores.min(initial=1.0) for found in pictures])
        full = (worst <= outputs["scores"][:, -1].astype(np.float64)) | (worst < limits.soft_min_score)
    outputs["complete"] = ((passing <= limits.candidates) | full).astype(np.int32)
    return outputs


def _best_pairs(boxes: Floats, scores: Floats, spreads: Floats, limits: Thresholds) -> Found:
    """The M best pairs of a picture above the threshold, best first, the lower anchor of equal ones."""
    flat = scores.ravel()
    passing = np.flatnonzero(flat > limits.score)
    best = passing[np.argsort(-flat[passing], kind="stable")[: limits.candidates]]
    anchors, labels = np.divmod(best, scores.shape[1])
    return Found(boxes[anchors], flat[best], labels, spreads[anchors])


def finished(outputs: Arrays, image_sizes: NDArray[np.int32], about: Description) -> Arrays:
    """Outputs of any form -> those of a detector; about: the file's description, which says which they are."""
    if about.outputs == "detections":
        return outputs
    if about.outputs == "raw":
        outputs = decode_raw(outputs, image_sizes, about.size, len(about.names))
    return finish(outputs, about.thresholds)


@dataclass(frozen=True)
class FinishedFile:
    """An open file of decoded or raw outputs as one of detections."""

    file: StaticFile

    def __post_init__(self) -> None:
        """Raises InputError as `require_followed`."""
        require_followed(self.file.description, self.file.path)

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def description(self) -> Description:
        """What it says of itself, but that it gives detections."""
        return replace(self.file.description, outputs="detections")

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError for outputs that are not those that the file describes."""
        outputs = self.file.run(images, image_sizes)
        try:
            return finished(outputs, image_sizes, self.file.description)
        except (IndexError, KeyError, ValueError) as error:
            raise InputError(
                f"{self.path} does not give the {self.file.description.outputs} outputs that it describes "
                f"({first_line(error)}); export it again from its checkpoint"
            ) from error

    def provider_report(self) -> ProviderReport:
        """What ran the file; NumPy does the rest."""
        report = self.file.provider_report()
        notes = (NO_SPREAD,) if self.file.description.outputs == "decoded" else ()
        return report._replace(notes=(*report.notes, *notes))
