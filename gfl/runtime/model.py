"""An opened model of any form: its description, its canvases, and one function from arrays to arrays.

Shapes: B pictures a run; H, W the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.data.canvas import by_area, fit_canvas, own_canvas
from gfl.data.transforms import resized_size
from gfl.errors import InputError
from gfl.runtime.description import Arrays, Description
from gfl.runtime.memory import run_memory_errors
from gfl.runtime.providers import ProviderReport
from gfl.shapes import Canvas

# uint8 (B,3,H,W) RGB on one of the model's canvases, and int32 (B,2) height, width of each picture -> outputs by name.
RunBatch = Callable[[NDArray[np.uint8], NDArray[np.int32]], Arrays]


class StaticFile(Protocol):
    """One open exported file, of whatever format: it takes one batch size on one canvas."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def description(self) -> Description:
        """What it says of itself."""

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `RunBatch`."""

    def provider_report(self) -> ProviderReport:
        """What ran where; known after the first run."""


@dataclass(frozen=True)
class Model:
    """An open model."""

    path: Path
    description: Description  # of the smallest canvas, where there are several
    canvases: tuple[Canvas, ...] | None  # None: each picture's own multiple of 32
    batch: int  # pictures a run; a static file takes exactly so many
    run: RunBatch
    provider_report: Callable[[], ProviderReport]  # what ran where; known after the first run
    any_canvas: bool = False  # whether it also takes other canvases, and any number of pictures a run

    def canvas_for(self, height: int, width: int) -> tuple[Canvas, tuple[int, int]]:
        """The canvas of a picture of this original size, and its resized (height, width) in it; evaluation takes the
        same."""
        resized = resized_size(height, width, self.description.short_side, self.description.long_side)
        if self.canvases is None:
            return own_canvas(*resized), resized
        return fit_canvas(*resized, self.canvases)


def static_model(path: Path, files: Sequence[StaticFile]) -> Model:
    """One model from open files of one batch size, a file a canvas.

    Raises InputError where the files do not belong together, and where they give other outputs than detections.
    """
    files = sorted(files, key=lambda file: by_area(file.description.size))
    first = files[0].description
    for file in files:
        if file.description.outputs != "detections":
            raise InputError(
                f"{file.path} gives {file.description.outputs} outputs, expected detections; export it with "
                "--outputs detections"
            )
        digests = {file.description.digest, first.digest} - {""}  # older files have none
        if file.description.without_size() != first.without_size() or len(digests) > 1:
            raise InputError(
                f"{file.path} and {files[0].path} are not exports of one model in one precision and batch size; "
                "give one of them, or export all sizes together"
            )
    runs = {file.description.size: file.run for file in files}
    if len(runs) < len(files):
        raise InputError(f"{path} holds several files of one size ({', '.join(map(str, runs))}); give one of them")

    def run(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        canvas = images.shape[2], images.shape[3]
        with run_memory_errors(canvas, len(images)):
            outputs = runs[canvas](images, image_sizes)
        require_detections(outputs, len(images), path)
        return outputs

    def provider_report() -> ProviderReport:
        return merge_reports([file.provider_report() for file in files])

    return Model(path, first, tuple(runs), first.batch, run, provider_report)


def require_detections(outputs: Arrays, batch: int, path: Path) -> None:
    """Raise InputError for outputs that are not those of a detector, as a file may give whatever it says of itself."""
    slots = outputs["scores"].shape[1:2] if "scores" in outputs else ()
    shapes = dict.fromkeys(("scores", "labels"), (batch, *slots))
    shapes |= dict.fromkeys(("boxes", "edge_std"), (batch, *slots, 4)) | {"count": (batch,), "complete": (batch,)}
    for name, shape in shapes.items():
        found = outputs[name].shape if name in outputs else None
        if found != shape or not slots or outputs[name].dtype.kind not in "fiu":
            raise InputError(
                f"{path} gives {name} of shape {found}, expected numbers of shape {shape}; export it again from its "
                "checkpoint"
            )
    counts, labels = outputs["count"].astype(np.int64), outputs["labels"].astype(np.int64)
    if counts.min() < 0 or counts.max() > slots[0] or (labels[np.arange(slots[0]) < counts[:, None]] < 0).any():
        raise InputError(
            f"{path} gives counts or labels out of their range (counts {counts.min()} to {counts.max()} for "
            f"{slots[0]} slots); export it again from its checkpoint"
        )


def merge_reports(reports: Sequence[ProviderReport]) -> ProviderReport:
    """What ran where, over the files of a folder; the provider is that of the first file that ran, if any did."""
    ran = [report for report in reports if report.nodes_by_provider] or reports
    nodes: dict[str, int] = {}
    for report in reports:
        for provider, count in report.nodes_by_provider.items():
            nodes[provider] = nodes.get(provider, 0) + count
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    return ProviderReport(ran[0].provider, nodes, tuple(notes))
