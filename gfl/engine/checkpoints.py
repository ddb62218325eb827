"""This project's .pt: the state tree of a run and what it takes to rebuild the model from the file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from gfl.config import read_text
from gfl.engine.weight_fit import LoadReport, fit
from gfl.engine.weights import CheckpointFile, fetch_torchvision, read_checkpoint
from gfl.errors import InputError
from gfl.files import atomic_file
from gfl.model import detector
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.tensors.variables import Variables
from gfl.version import VERSION

SIZES = ("short_side", "long_side", "eval_short_side", "canvases")  # settings that a run's canvases come from
RESUMED = {"variables", "ema", "optimiser", "loss_scale", "cursor", "config", "best"}  # what going on with a run reads


@dataclass(frozen=True)
class TrainedModel:
    """Weights with everything needed to use them."""

    variables: Variables
    run: RunConfig  # detector.num_classes already set to that of the weights
    names: tuple[str, ...]  # of the classes, label 0 first
    category_ids: tuple[int, ...]  # of the data set trained on, label 0 first
    canvases: tuple[Canvas, ...] | None  # of the run; None: each picture its own, or its sizes were changed
    config_text: str = ""  # gin text of the run; empty where the settings are the caller's


class Origin(NamedTuple):
    """Where a run's first weights come from."""

    text: str
    table: str = ""  # what became of a file's weights, where not all were kept


def write_checkpoint(path: Path, tree: Mapping[str, object]) -> None:
    """Write a .pt atomically: a crash leaves the file before it whole. InputError when it cannot be written."""
    with atomic_file(path) as stream:
        torch.save({"gfl_version": VERSION, **tree}, stream)


def read_state(path: Path) -> Mapping[str, object]:
    """The whole tree of one of this project's checkpoints; InputError for a file that holds no run."""
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for a damaged file
        raise InputError(f"{path} cannot be read ({type(error).__name__}); give the last.pt of a run") from error
    if not isinstance(tree, dict) or not tree.keys() >= RESUMED:
        raise InputError(f"{path} holds no run to go on with; give the last.pt of a run")
    return tree


def load_trained(
    path: Path,
    run: RunConfig | None = None,
    names: tuple[str, ...] | None = None,
    *,
    bindings: Sequence[str] = (),
) -> TrainedModel:
    """A trained model from its file, averaged weights preferred.

    run: the model's settings for a file that has none (the authors' .pth); names: classes where the file has none;
    bindings: changes to the settings in the file, where `run` is not given.
    Raises InputError when the settings are missing or contradict the weights.
    """
    file = read_checkpoint(path)
    text, canvases = "", _canvases(file)
    if run is None:
        stored = file.extra.get("config")
        if not isinstance(stored, str):
            raise InputError(
                f"{path} does not say which model it is; give --gin_file with the model's settings, e.g. r50.gin"
            )
        parsed = read_text(stored, bindings)
        run, text = parsed.run, parsed.config_text
        before = read_text(stored).run.data if bindings else run.data
        if any(getattr(before, name) != getattr(run.data, name) for name in SIZES):
            canvases = None
    names = file.names or names
    if names is None:
        raise InputError(f"{path} does not name its classes; give --annotations, whose categories do")
    run = replace(run, detector=replace(run.detector, num_classes=len(names)))
    variables, _ = fit(detector.init(run.detector), file.state, require_all=True, source=path)
    return TrainedModel(variables, run, names, _category_ids(file, len(names)), canvases, text)


def _category_ids(file: CheckpointFile, classes: int) -> tuple[int, ...]:
    saved = file.extra.get("category_ids")
    return tuple(int(i) for i in saved) if isinstance(saved, (list, tuple)) else tuple(range(1, classes + 1))


def _canvases(file: CheckpointFile) -> tuple[Canvas, ...] | None:
    saved = file.extra.get("canvases")
    return tuple((int(h), int(w)) for h, w in saved) if isinstance(saved, (list, tuple)) else None


def initial_variables(cfg: RunConfig) -> tuple[Variables, Origin]:
    """Random variables with those of CHECKPOINT in their place, and what was taken.

    Raises InputError as `read_checkpoint` and `fit`, and where the file's backbone is another than the run's.
    """
    variables = detector.init(cfg.detector, cfg.seed)
    if cfg.checkpoint is None:
        return variables, Origin(f"random weights, seed {cfg.seed}")
    if cfg.checkpoint == "torchvision":
        file = fetch_torchvision(cfg.detector.backbone.depth)
    else:
        file = read_checkpoint(cfg.checkpoint)
    variables, report = fit(variables, file.state, source=cfg.checkpoint)
    _require_backbone(file, report)
    counts = {
        "kept": len(report.kept),
        "re-initialised": len(report.reinitialised),
        "not in the file": len(report.missing),
        "left over": len(report.left_over),
    }
    text = f"{file.path.name}: tensors " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return variables, Origin(text, report.table() if sum(counts.values()) > counts["kept"] else "")


def _require_backbone(file: CheckpointFile, report: LoadReport) -> None:
    """Biases and scales fit a model of any width: a run from them alone would be one from random weights."""
    kernels = {path: tensor for path, tensor in file.state.items() if path.startswith("backbone.") and tensor.ndim == 4}
    misfit = next((misfit for misfit in report.reinitialised if misfit.path in kernels), None)
    if misfit is not None and not kernels.keys() & set(report.kept):
        raise InputError(
            f"{file.path} has another backbone than the run: got {misfit.path} {misfit.in_file}, expected "
            f"{misfit.in_model}; name the run file of its model first, e.g. --gin_file scratch_small.gin --gin_file "
            "finetune.gin"
        )
