"""This project's .pt: the state of a run, and the settings and names that rebuild its model from the file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from gfl.config import ParsedRun, read_text, with_setting
from gfl.engine.class_layer import BIAS as CLASS_ROWS
from gfl.engine.deform_fit import require_version, with_version_of
from gfl.engine.imagenet import IMAGENET, fetch_imagenet
from gfl.engine.torch_file import read_torch_file
from gfl.engine.weight_fit import Classes, LoadReport, fit
from gfl.engine.weights import FORMAT, CheckpointFile, read_checkpoint, require_known_format
from gfl.errors import InputError, first_line
from gfl.files import atomic_file
from gfl.model import detector
from gfl.settings import RunConfig
from gfl.shapes import MOST_PIXELS, Canvas
from gfl.tensors.variables import Variables
from gfl.version import VERSION

SIZE_SETTINGS = ("short_side", "long_side", "eval_short_side", "canvases")  # they decide a run's canvases
RESUME_FIELDS = {"variables", "ema", "optimiser", "loss_scale", "cursor", "config", "best"}  # that --resume reads


@dataclass(frozen=True)
class TrainedModel:
    """Trained weights, and everything needed to use them."""

    variables: Variables
    run: RunConfig  # with the number of classes of the weights
    names: tuple[str, ...]  # of the classes, label 0 first
    category_ids: tuple[int, ...]  # in the annotations trained on, label 0 first
    canvases: tuple[Canvas, ...] | None  # of the run; None: a canvas for each picture, or `bindings` changed the sizes
    config_text: str = ""  # the run's settings in gin; empty where the caller gave the settings
    names_its_classes: bool = True  # whether `names` are the file's own, not the caller's
    score_thresholds: tuple[float, ...] | None = None  # score of highest F1 of each class; None: it was never evaluated


class Origin(NamedTuple):
    """Where a run's first weights come from."""

    text: str  # for the head of the run
    table: str = ""  # what became of a file's weights, a line a group; where all were kept, of its classes alone


def write_checkpoint(path: Path, tree: Mapping[str, object]) -> None:
    """Write a .pt; after a crash the file is the old one or the new one. InputError when it cannot be written.

    docs/checkpoint.md says what is in the tree.
    """
    with atomic_file(path) as stream:
        torch.save({"format": FORMAT, "gfl_version": VERSION, **tree}, stream)


def read_state(path: Path) -> Mapping[str, object]:
    """Everything in a checkpoint of this project; InputError for a file that --resume cannot go on with."""
    tree = read_torch_file(path, "the last.pt of a run")
    if isinstance(tree, dict) and "variables" in tree:
        require_known_format(path, tree)
    if not isinstance(tree, dict) or not tree.keys() >= RESUME_FIELDS:
        raise InputError(f"{path} holds no run to go on with; give the last.pt of a run")
    return tree


def stored_settings(path: str) -> str | None:
    """The run's settings in gin that a file of weights carries; None where it is none of this project's .pt.

    Raises InputError as `read_checkpoint`.
    """
    text = read_checkpoint(path).extra.get("config")
    return text if isinstance(text, str) else None


def load_trained(
    path: Path, run: RunConfig | None = None, names: tuple[str, ...] | None = None, *, bindings: Sequence[str] = ()
) -> TrainedModel:
    """Load a trained model from its file: the averaged weights where there are some.

    run: the model's settings, for a file without them (the authors' .pth) or instead of those in the file;
    names: the classes, for a file that does not name them;
    bindings: gin bindings that change the settings in the file; not used with `run`.
    Raises InputError when settings or class names are missing, or the weights are of another model.
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
        if any(getattr(before, name) != getattr(run.data, name) for name in SIZE_SETTINGS):
            canvases = None
    names_its_classes, names = file.names is not None, file.names or names
    if names is None:
        raise InputError(
            f"{path} does not name its classes; give --annotations, whose categories do, or --names of infer (names of "
            "gfl.load)"
        )
    rows = file.state.get(CLASS_ROWS)
    if not names_its_classes and rows is not None and len(rows) - len(names) not in (0, 1):  # 1: for the background
        raise InputError(
            f"got {len(names)} class names for {path}, whose class layer has {len(rows)} rows; give the name of each "
            "of its classes, in its order"
        )
    cfg = with_version_of(run.detector, file.state, path)
    run = replace(run, detector=replace(cfg, num_classes=len(names)))
    _require_numbers(file, run.detector)
    variables, _ = fit(detector.init(run.detector), file.state, require_all=True, source=path)
    try:
        category_ids, thresholds = _category_ids(file, len(names)), _score_thresholds(file, len(names))
    except (TypeError, ValueError, OverflowError) as error:
        raise _other_values(file, "category ids or score thresholds", error) from error
    return TrainedModel(variables, run, names, category_ids, canvases, text, names_its_classes, thresholds)


def with_text(model: TrainedModel, given: ParsedRun) -> TrainedModel:
    """A model of `load_trained` that was given these settings, with their text, changed where the file decided."""
    backbone, text = model.run.detector.backbone, given.config_text
    if backbone.deformable != given.run.detector.backbone.deformable:
        text = with_setting(text, type(backbone).__name__, "deformable", backbone.deformable)
    return replace(model, config_text=text)


def _category_ids(file: CheckpointFile, classes: int) -> tuple[int, ...]:
    saved = file.extra.get("category_ids")
    return tuple(int(i) for i in saved) if isinstance(saved, (list, tuple)) else tuple(range(1, classes + 1))


def _score_thresholds(file: CheckpointFile, classes: int) -> tuple[float, ...] | None:
    saved = file.extra.get("score_thresholds")
    if not isinstance(saved, (list, tuple)) or len(saved) != classes:
        return None
    scores = tuple(float(score) for score in saved)
    if not all(0 <= score <= 1 for score in scores):  # NaN too
        raise ValueError(f"got {list(scores)[:5]}, expected shares of 1")
    return scores


def _canvases(file: CheckpointFile) -> tuple[Canvas, ...] | None:
    saved = file.extra.get("canvases")
    if not isinstance(saved, (list, tuple)):
        return None
    try:
        canvases = tuple((int(h), int(w)) for h, w in saved)
    except (TypeError, ValueError, OverflowError) as error:
        raise _other_values(file, "canvases", error) from error
    if not all(h > 0 and w > 0 and h * w <= MOST_PIXELS for h, w in canvases):
        raise InputError(
            f"{file.path} names the canvases {canvases}, expected at most {MOST_PIXELS} pixels each; get it again "
            "from where it comes"
        )
    return canvases


def _other_values(file: CheckpointFile, what: str, error: Exception) -> InputError:
    return InputError(
        f"{file.path} has {what} that cannot be read ({first_line(error)}), expected those that gfl.train writes; get "
        "it again from where it comes"
    )


def _require_numbers(file: CheckpointFile, cfg: detector.DetectorConfig) -> None:
    """Raise InputError where the settings are of a model far larger than the file: random weights come first."""
    held = sum(tensor.numel() for tensor in file.state.values())
    kernel = 3 * 3
    least = max(  # of the largest layers of each part, whose channels settings widen by squares
        2 * cfg.head.convs * cfg.head.channels**2 * kernel,
        cfg.neck.channels**2 * kernel,
        (8 * cfg.backbone.base_width) ** 2 * kernel,
        (cfg.num_classes + 4 * (cfg.head.reg_max + 1)) * cfg.head.channels * kernel,
    )
    if least > held:
        raise InputError(
            f"{file.path} is not of this model: got {held} weights, expected at least {least} for its settings; give "
            "the configuration that it was trained with"
        )


def initial_variables(cfg: RunConfig, names: Sequence[str]) -> tuple[Variables, Origin]:
    """The weights at step 0: random, replaced by those of CHECKPOINT where they fit; and where they come from.

    names: the classes of the data set, label 0 first; the class layer's rows are taken by these.
    Raises InputError as `read_checkpoint` and `fit` do, and where the file is of another backbone than the run's.
    """
    variables = detector.init(cfg.detector, cfg.seed)
    if cfg.checkpoint is None:
        return variables, Origin(f"random weights, seed {cfg.seed}")
    if cfg.checkpoint in IMAGENET:
        file = fetch_imagenet(cfg.checkpoint, cfg.detector.backbone)
    else:
        file = read_checkpoint(cfg.checkpoint)
    require_version(cfg.detector, file.state, cfg.checkpoint)
    variables, report = fit(variables, file.state, source=cfg.checkpoint, classes=Classes(names, file.names))
    _require_backbone(file, report)
    counts = {
        "kept": len(report.kept),
        "kept in part": len(report.in_part),
        "re-initialised": len(report.reinitialised),
        "not in the file": len(report.missing),
        "left over": len(report.left_over),
    }
    text = f"{file.path.name}: tensors " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    whole = sum(counts.values()) == counts["kept"]
    return variables, Origin(text, report.class_layer if whole else report.table())


def _require_backbone(file: CheckpointFile, report: LoadReport) -> None:
    """Raise InputError where no kernel of the backbone fits: biases alone would leave the backbone random."""
    kernels = {path: tensor for path, tensor in file.state.items() if path.startswith("backbone.") and tensor.ndim == 4}
    misfit = next((misfit for misfit in report.reinitialised if misfit.path in kernels), None)
    if misfit is not None and not kernels.keys() & set(report.kept):
        raise InputError(
            f"{file.path} has another backbone than the run: got {misfit.path} {misfit.in_file}, expected "
            f"{misfit.in_model}; name the run file of its model first, e.g. --gin_file scratch_small.gin --gin_file "
            "finetune.gin"
        )
