"""This project's .pt: the state tree of a run and what it takes to rebuild the model from the file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gfl import __version__
from gfl.config import read_text
from gfl.engine.files import atomic_file
from gfl.engine.weights import CheckpointFile, fetch_torchvision, fit, read_checkpoint
from gfl.errors import InputError
from gfl.model import detector
from gfl.settings import Canvas, RunConfig
from gfl.tensors.variables import Variables

RESUMED = {"variables", "ema", "optimiser", "loss_scale", "cursor", "config", "best"}  # what going on with a run reads


@dataclass(frozen=True)
class TrainedModel:
    """Weights with everything needed to use them."""

    variables: Variables
    run: RunConfig  # detector.num_classes already set to that of the weights
    names: tuple[str, ...]  # of the classes, label 0 first
    category_ids: tuple[int, ...]  # of the data set trained on, label 0 first
    canvases: tuple[Canvas, ...] | None  # of the run; None: each picture its own
    config_text: str = ""  # gin text of the run; empty where the settings are the caller's


def write_checkpoint(path: Path, tree: Mapping[str, object]) -> None:
    """Write a .pt atomically: a crash leaves the file before it whole. InputError when it cannot be written."""
    with atomic_file(path) as stream:
        torch.save({"gfl_version": __version__, **tree}, stream)


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
    text = ""
    if run is None:
        stored = file.extra.get("config")
        if not isinstance(stored, str):
            raise InputError(
                f"{path} does not say which model it is; give --gin_file with the model's settings, e.g. r50.gin"
            )
        parsed = read_text(stored, bindings)
        run, text = parsed.run, parsed.config_text
    names = file.names or names
    if names is None:
        raise InputError(f"{path} does not name its classes; give --annotations, whose categories do")
    run = replace(run, detector=replace(run.detector, num_classes=len(names)))
    variables, _ = fit(detector.init(run.detector), file.state, require_all=True, source=path)
    return TrainedModel(variables, run, names, _category_ids(file, len(names)), _canvases(file), text)


def _category_ids(file: CheckpointFile, classes: int) -> tuple[int, ...]:
    saved = file.extra.get("category_ids")
    return tuple(int(i) for i in saved) if isinstance(saved, (list, tuple)) else tuple(range(1, classes + 1))


def _canvases(file: CheckpointFile) -> tuple[Canvas, ...] | None:
    saved = file.extra.get("canvases")
    return tuple((int(h), int(w)) for h, w in saved) if isinstance(saved, (list, tuple)) else None


def initial_variables(cfg: RunConfig) -> tuple[Variables, str]:
    """Random variables with those of CHECKPOINT in their place, and a line that says what was taken."""
    variables = detector.init(cfg.detector, cfg.seed)
    if cfg.checkpoint is None:
        return variables, f"random weights, seed {cfg.seed}"
    if cfg.checkpoint == "torchvision":
        file = fetch_torchvision(cfg.detector.backbone.depth)
    else:
        file = read_checkpoint(cfg.checkpoint)
    variables, report = fit(variables, file.state, source=cfg.checkpoint)
    changed = ", ".join(f"{m.path.removeprefix('bbox_head.')} ({m})" for m in report.reinitialised[:4])
    return variables, ", ".join(
        part
        for part in (
            f"{file.path.name}: {len(report.kept)} tensors kept",
            f"re-initialised {changed}" if changed else "",
            f"{len(report.missing)} not in the file" if report.missing else "",
            f"{len(report.left_over)} left over" if report.left_over else "",
        )
        if part
    )
