"""A checkpoint, run by PyTorch: `detector.predict` with prepared weights and the grid of each canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfl.class_names import list_names
from gfl.config import read_run, without_paths
from gfl.data.canvas import own_canvas
from gfl.data.classes import read_class_names
from gfl.data.sizes import eval_short_side
from gfl.engine.checkpoints import TrainedModel, load_trained, with_text
from gfl.errors import InputError
from gfl.model import detector
from gfl.model.anchors import Grid, make_grid
from gfl.model.structures import Detections
from gfl.report.best_f1 import DEFAULT_SCORE
from gfl.runtime.description import Arrays, Description, Thresholds
from gfl.runtime.memory import run_memory_errors
from gfl.runtime.model import Model
from gfl.runtime.on_torch.device import to_arrays, torch_device_of
from gfl.runtime.providers import ProviderChoice, ProviderReport
from gfl.shapes import Canvas
from gfl.tensors.variables import Variables, map_leaves
from gfl.version import VERSION

Predict = Callable[[Tensor, Tensor], Detections]


def predictor(variables: Variables, cfg: detector.DetectorConfig, device: torch.device) -> Predict:
    """A function of images uint8 (B,3,H,W) RGB and image_sizes int32 (B,2) height, width, which runs on a device.

    The weights are prepared once, and the grid of a canvas is made when it is first met.
    """
    on_device = map_leaves(lambda tensor: tensor.detach().to(device), variables)
    prepared = detector.prepare(on_device, detector.freeze(on_device, cfg))
    grids: dict[Canvas, Grid] = {}

    def predict(images: Tensor, image_sizes: Tensor) -> Detections:
        canvas = (images.shape[2], images.shape[3])
        if canvas not in grids:
            grids[canvas] = make_grid(canvas, device)  # two threads may each make one: they are equal
        with torch.inference_mode():
            return detector.predict(prepared, images.to(device), image_sizes.to(device), grids[canvas], cfg)

    return predict


def describe(
    model: TrainedModel, *, size: Canvas, batch: int, outputs: str = "detections", precision: str = "fp32"
) -> Description:
    """What a file says of itself that this model is exported to, on a canvas of this size."""
    cfg, data = model.run.detector, model.run.data
    return Description(
        version=VERSION,
        outputs=outputs,
        precision=precision,
        names=model.names,
        category_ids=model.category_ids,
        batch=batch,
        size=size,
        mean=cfg.mean,
        std=cfg.std,
        short_side=min(eval_short_side(data), data.long_side),
        long_side=data.long_side,
        thresholds=Thresholds(
            score=cfg.predict.score_threshold,
            nms_iou=cfg.predict.nms_iou,
            max_detections=cfg.predict.max_detections,
            candidates=cfg.predict.candidates,
            rounds=cfg.predict.rounds,
            nms=cfg.predict.nms,
            class_agnostic=cfg.predict.class_agnostic,
            soft_sigma=cfg.predict.soft_sigma,
            soft_min_score=cfg.predict.soft_min_score,
        ),
        config=without_paths(model.config_text),
        score_thresholds=model.score_thresholds or (DEFAULT_SCORE,) * len(model.names),
    )


def open_checkpoint(
    path: Path,
    *,
    batch: int,
    threads: int,
    choice: ProviderChoice,
    gin_files: Sequence[str | Path] = (),
    gin_bindings: Sequence[str] = (),
    names: str | Path | Sequence[str] | None = None,
    candidates: bool = False,
) -> Model:
    """A .pt, .pth or .safetensors as a model; gin_files, gin_bindings, names and candidates as of `open_model`.

    Raises InputError as `load_trained` and `torch_device_of`, and for other names than the file's own.
    """
    trained = _load(path, gin_files, gin_bindings, names)
    device, report = torch_device_of(choice)
    if threads:
        torch.set_num_threads(threads)
    return trained_model(path, trained, device, report, batch=batch, candidates=candidates)


def trained_model(
    path: Path,
    trained: TrainedModel,
    device: torch.device,
    report: ProviderReport,
    *,
    batch: int,
    candidates: bool = False,
) -> Model:
    """Trained weights as a model; path: the file they are of; candidates: as of `open_model`."""
    cfg = trained.run.detector
    if candidates:  # no IoU is above 1, so nothing is suppressed, which one round settles
        every = replace(cfg.predict, nms_iou=1.0, max_detections=cfg.predict.candidates, rounds=1)
        cfg = replace(cfg, predict=every)
    predict = predictor(trained.variables, cfg, device)

    def run(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        with run_memory_errors((images.shape[2], images.shape[3]), len(images)):
            return to_arrays(predict(torch.from_numpy(images), torch.from_numpy(image_sizes)))

    short, long = eval_short_side(trained.run.data), trained.run.data.long_side
    size = trained.canvases[0] if trained.canvases else own_canvas(min(short, long), long)
    description = describe(trained, size=size, batch=batch)
    return Model(path, description, trained.canvases, batch, run, lambda: report, any_canvas=True)


def _load(
    path: Path, gin_files: Sequence[str | Path], gin_bindings: Sequence[str], names: str | Path | Sequence[str] | None
) -> TrainedModel:
    given = read_run(gin_files, gin_bindings) if gin_files else None
    classes = None if names is None else read_class_names(names)
    trained = load_trained(path, given and given.run, None if classes is None else classes.names, bindings=gin_bindings)
    if given is not None:
        trained = with_text(trained, given)
    if classes is None:
        return trained
    if trained.names_its_classes:
        if trained.names != classes.names:
            raise InputError(
                f"got the class names {list_names(classes.names)} for {path}, which names its own: "
                f"{list_names(trained.names)}; omit them"
            )
        return trained
    return replace(trained, category_ids=classes.category_ids)
