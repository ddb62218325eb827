"""Opening a trained model in any form that this project writes, as one type with one call.

No PyTorch is imported for an .onnx or an .om. Shapes: B pictures a run, H, W the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.data.canvas import Canvas, fit_canvas, own_canvas
from gfl.data.transforms import resized_size
from gfl.engine.description import Arrays, Description
from gfl.engine.om_model import open_om
from gfl.engine.onnx_model import open_onnx
from gfl.engine.providers import Placement, ProviderChoice
from gfl.errors import InputError

Run = Callable[[NDArray[np.uint8], NDArray[np.int32]], Arrays]


class StaticFile(Protocol):
    """One open exported file, of whatever format."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def description(self) -> Description:
        """What it says of itself."""

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """uint8 (B,3,H,W) RGB and int32 (B,2) height, width -> outputs by name."""

    def placement(self) -> Placement:
        """What ran where, after the first run."""


CHECKPOINTS = (".pt", ".pth", ".safetensors")
EXPORTS = (".onnx", ".pt2", ".om")  # static files, one a canvas; in a folder the first kind that is there is taken


@dataclass(frozen=True)
class Model:
    """An open model."""

    path: Path
    description: Description  # of the smallest canvas, where there are several
    canvases: tuple[Canvas, ...] | None  # None: each picture's own multiple of 32
    batch: int  # pictures a run; a static file takes exactly so many
    run: Run  # uint8 (B,3,H,W) RGB on one of the canvases, int32 (B,2) height, width -> outputs by name
    placement: Callable[[], Placement]  # what ran where; known after the first run

    def place(self, height: int, width: int) -> tuple[Canvas, tuple[int, int]]:
        """A picture's canvas and its resized (height, width) in it, as evaluation chooses them."""
        resized = resized_size(height, width, self.description.short_side, self.description.long_side)
        if self.canvases is None:
            return own_canvas(*resized), resized
        return fit_canvas(*resized, self.canvases)


def open_model(
    path: str | Path,
    *,
    batch: int | None = None,
    threads: int = 0,
    choice: ProviderChoice = ProviderChoice(),  # noqa: B008  # frozen
) -> Model:
    """Open a .pt, .pth, .safetensors, .pt2, .onnx or .om, or a folder of exports at several sizes.

    batch: pictures a run, 1 by default; a static file has its own. threads: of the CPU, 0 for the runtime's choice.
    Raises InputError for a file that is missing, of another kind, damaged or not of this project, and for a batch
    that a static file does not take.
    """
    path = Path(path)
    if batch is not None and batch < 1:
        raise InputError(f"got a batch of {batch}, expected at least 1 picture a run; leave it out for the usual")
    kind = kind_of(path)
    if kind in CHECKPOINTS:
        from gfl.inference.checkpoint import open_checkpoint  # late: it imports PyTorch

        return open_checkpoint(path, batch=batch or 1, threads=threads, choice=choice)
    if kind == ".onnx":
        model = static_model(path, [open_onnx(file, threads=threads, choice=choice) for file in files_of(path, kind)])
    elif kind == ".om":
        if choice.name not in ("auto", "cann"):
            raise InputError(
                f"got the provider {choice.name} for {path}, which runs on an Ascend NPU only; leave it out"
            )
        if choice.options.keys() - {"device_id"}:
            raise InputError(
                f"got the provider options {', '.join(choice.options)} for {path}, expected device_id alone; leave the "
                "others out, they were settled when it was compiled"
            )
        device = int(choice.options.get("device_id", 0))
        model = static_model(path, [open_om(file, device_id=device) for file in files_of(path, kind)])
    else:
        from gfl.inference.program import open_program  # late: it imports PyTorch

        model = static_model(
            path, [open_program(file, threads=threads, choice=choice) for file in files_of(path, kind)]
        )
    if batch is not None and batch != model.batch:
        raise InputError(
            f"got a batch of {batch} for {path}, which takes exactly {model.batch} at a time; leave it out, or export "
            f"again with --batch {batch}"
        )
    return model


def kind_of(path: Path) -> str:
    """The suffix of a model file, or that of the exports in a folder; InputError for anything else."""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name too long, a folder without permission
        raise InputError(f"{path} cannot be looked at ({error.strerror}), expected a model; check the name") from None
    if is_folder:
        kind = next((kind for kind in EXPORTS if any(path.glob(f"*{kind}"))), None)
        if kind is None:
            hint = (
                f"give {path / 'best.pt'}"
                if (path / "best.pt").is_file()
                else "write some with `python -m export.onnx`"
            )
            raise InputError(f"{path} holds no exports ({', '.join(EXPORTS)}); {hint}")
        return kind
    if path.suffix not in (*CHECKPOINTS, *EXPORTS):
        known = ", ".join((*CHECKPOINTS, *EXPORTS))
        raise InputError(f"got the model {path}, expected one of {known} or a folder of exports; check the name")
    if not is_file:
        raise InputError(f"{path}: no such file, expected a model; check the name")
    return path.suffix


def files_of(path: Path, kind: str) -> list[Path]:
    """The file itself, or those of its kind in the folder, by name."""
    return sorted(path.glob(f"*{kind}")) if path.is_dir() else [path]


def static_model(path: Path, files: Sequence[StaticFile]) -> Model:
    """One model from open files of one batch size, a file a canvas.

    Raises InputError where the files do not belong together, and where they give other outputs than detections.
    """
    files = sorted(files, key=lambda file: _by_area(file.description.size))
    first = files[0].description
    for file in files:
        if file.description.outputs != "detections":
            raise InputError(
                f"{file.path} gives {file.description.outputs} outputs, expected detections; export it with "
                "--outputs detections"
            )
        if file.description.kin() != first.kin():
            raise InputError(
                f"{file.path} and {files[0].path} are not exports of one model in one precision and batch size; "
                "give one of them"
            )
    runs = {file.description.size: file.run for file in files}
    if len(runs) < len(files):
        raise InputError(f"{path} holds several files of one size ({', '.join(map(str, runs))}); give one of them")

    def run(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        return runs[(images.shape[2], images.shape[3])](images, image_sizes)

    return Model(path, first, tuple(runs), first.batch, run, lambda: merged([file.placement() for file in files]))


def _by_area(canvas: Canvas) -> tuple[int, Canvas]:
    return canvas[0] * canvas[1], canvas


def merged(placements: Sequence[Placement]) -> Placement:
    """What ran where, over the files of a folder; the provider is that of the first that ran, if any did."""
    ran = [placement for placement in placements if placement.nodes_by_provider] or placements
    nodes: dict[str, int] = {}
    for placement in placements:
        for provider, count in placement.nodes_by_provider.items():
            nodes[provider] = nodes.get(provider, 0) + count
    notes = dict.fromkeys(note for placement in placements for note in placement.notes)
    return Placement(ran[0].provider, nodes, tuple(notes))
