"""The settings of a run, as frozen dataclasses with the paper's R50 recipe as defaults.

`gin/*.gin` binds these and nothing else; Python callers get the same defaults without gin. Each field of `DataConfig`,
`OptimConfig` and `RunConfig` that is no dataclass itself is set by the knob of its name in capitals; gin/base.gin
explains all of them. gfl/config.py checks the types, `__post_init__` what types cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import Literal

from gfl.limits import ANY
from gfl.limits import require as require_limits
from gfl.model.detector import DetectorConfig
from gfl.shapes import MOST_PICTURES, MOST_SIDE_PX, Canvas

require = partial(require_limits, knobs=True)

# Beside the model, what a run passes on to one that starts from its checkpoint (SETTINGS_FROM_CHECKPOINT). All else is
# about a machine, a data set, or the length of a run.
PASSED_ON = (
    *("optimizer", "lr", "momentum", "weight_decay", "decay_vectors", "clip", "ema"),
    *("short_side", "long_side", "eval_short_side", "flip", "flip_vertical", "brightness", "contrast"),
)
IMAGENET = ("torchvision", "torchvision-v2", "timm-rsb", "openmmlab")  # values of `RunConfig.checkpoint`: no files
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # values of `RunConfig.compile`
# A field that means little without another is not passed on where that other one is set to something else by hand.
FOLLOWS = {"eval_short_side": "short_side"} | dict.fromkeys(("lr", "momentum", "weight_decay"), "optimizer")


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures are and how they become canvases."""

    # COCO layout; the four paths below win over it
    root: str | None = field(default="data/coco", metadata={"knob": "DATA_ROOT"})
    train_json: str | None = None
    train_images: str | None = None
    val_json: str | None = None
    val_images: str | None = None
    short_side: int | tuple[int, int] = 800  # a number, or (low, high) for multi-scale training
    long_side: int = 1333  # no side of a resized picture exceeds it
    eval_short_side: int | None = None  # None: short_side, or its upper end
    canvases: Literal["auto", "own"] | tuple[Canvas, ...] = "auto"  # 'auto' (at most four), 'own', or a list of (H, W)
    max_boxes: int | Literal["auto"] = "auto"  # 'auto': the data set's maximum, rounded up
    flip: float = 0.5  # probability of a horizontal flip
    flip_vertical: float = 0.0
    brightness: float = 0.0  # photometric jitter: factor uniform in 1 +- this
    contrast: float = 0.0
    keep_empty: bool = False  # train on pictures without boxes too
    workers: int = 2

    def __post_init__(self) -> None:
        if self.root is None and None in (self.train_json, self.train_images):
            raise ValueError(
                "DATA_ROOT=None: expected a folder in COCO layout; give DATA_ROOT, "
                "or TRAIN_JSON, TRAIN_IMAGES, VAL_JSON and VAL_IMAGES"
            )
        require(self, eval_short_side=(32, ANY), long_side=(32, ANY), workers=(0, 1024))
        if self.max_boxes != "auto":
            require(self, max_boxes=(1, 100_000))
        require(self, flip=(0, 1), flip_vertical=(0, 1), brightness=(0, 1), contrast=(0, 1))
        sides = self.short_side if isinstance(self.short_side, tuple) else (self.short_side, self.short_side)
        if len(sides) != 2 or not 32 <= sides[0] <= sides[1] <= MOST_SIDE_PX:
            raise ValueError(
                f"SHORT_SIDE={self.short_side}: expected a number or (low, high) with 32 <= low <= high "
                f"<= {MOST_SIDE_PX}"
            )
        if self.canvases == ():
            raise ValueError("CANVASES=(): expected at least one (H, W); set it to 'auto' or to a list of (H, W)")
        if self.long_side < sides[1]:
            raise ValueError(
                f"LONG_SIDE={self.long_side}: expected at least SHORT_SIDE={self.short_side}; raise LONG_SIDE"
            )


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule; the defaults are the paper's 1x recipe."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01  # for 16 images a step; scaled linearly to batch_size
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_vectors: bool = True  # also decay biases and norms, as the reference does
    schedule: Literal["steps", "cosine"] = "steps"
    decay_epochs: tuple[float, ...] = (
        8,
        11,
    )  # 'steps': divide lr by 10 after so many epochs, or such shares of the run
    final_lr: float = 0.0  # 'cosine': share of the base lr at the end
    warmup_steps: int = 500  # at most a fifth of the run
    warmup_start: float = 0.001  # share of the base lr at step 0
    clip: float = 0.0  # maximum gradient norm; 0 = off
    ema: float = 0.0  # decay of the averaged weights; 0 = off

    def __post_init__(self) -> None:
        require(self, lr=(0, ANY), weight_decay=(0, ANY), clip=(0, ANY), warmup_steps=(0, ANY))
        require(self, final_lr=(0, 1), warmup_start=(0, 1), momentum=(0, 0.9999), ema=(0, 0.99999))
        if not all(0 < decay < 1 or (decay >= 1 and float(decay).is_integer()) for decay in self.decay_epochs):
            raise ValueError(
                f"DECAY_EPOCHS={self.decay_epochs}: expected whole epochs, or shares of the run between 0 and 1"
            )


@dataclass(frozen=True)
class RunConfig:
    """One training run: what is trained, on what, how long, with which device and precision."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch_size: int = 16  # images an optimiser step, over all devices and accumulation
    accumulate: int = 1
    epochs: int = 12
    max_steps: int = 0  # 0 = all
    seed: int = 0
    checkpoint: str | None = None  # a file, one of IMAGENET, or None
    settings_from_checkpoint: bool = False  # take model, optimiser and picture sizes from the run of `checkpoint`
    freeze: Literal["backbone"] | None = None  # what of the model is not trained, beside the frozen stages
    device: Literal["auto", "cpu", "cuda", "npu"] = "auto"
    precision: Literal["auto", "fp32", "o1", "bf16"] = "fp32"  # 'auto': gfl/engine/precision_choice.py
    loss_scale: float | Literal["dynamic"] = 128.0  # only 'o1' uses it
    apex: bool = False  # let an installed Apex do 'o1'
    # False, True, or a mode of torch.compile; those of CUDA_GRAPHS replay recorded kernels on a GPU
    compile: bool | Literal["reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = False
    recompute: bool = False  # keep few activations for the backward pass and compute the others again
    eval_every: int = 1  # epochs; 0 = never
    eval_in_background: bool | Literal["auto"] = "auto"  # count beside the next steps; 'auto': not on a CPU
    patience: int = 0  # evaluations without a gain in AP after which the run ends; 0 = off
    save_every: int = 0  # steps between last.pt; 0 = each epoch
    keep_last: int = 0  # epochs whose weights stay, as epoch_N.pt
    log_every: int = 20  # steps between two copies of the metrics to the host
    report: bool = True  # leave plots, pictures and a page in the run's folder
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb", "trackio"], ...] = ()  # gfl/record/trackers/

    def __post_init__(self) -> None:
        require(self, accumulate=(1, ANY), epochs=(1, ANY), max_steps=(0, ANY), seed=(0, 2**63 - 1))
        require(
            self, eval_every=(0, ANY), patience=(0, ANY), save_every=(0, ANY), keep_last=(0, ANY), log_every=(1, ANY)
        )
        require(self, batch_size=(1, MOST_PICTURES))
        if self.patience and not self.eval_every:
            raise ValueError(f"PATIENCE={self.patience} with EVAL_EVERY=0: expected an evaluation to judge by; set one")
        if self.patience and self.eval_in_background is True:
            raise ValueError(
                f"EVAL_IN_BACKGROUND=True with PATIENCE={self.patience}: expected one of them, for PATIENCE needs an "
                "evaluation's AP before it lets the run go on; set EVAL_IN_BACKGROUND='auto' or PATIENCE=0"
            )
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"TRACKERS={self.trackers}: expected each tracker once; take the repeated ones out")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"BATCH_SIZE={self.batch_size}: expected a positive multiple of ACCUMULATE={self.accumulate}"
            )
        if self.loss_scale != "dynamic" and not 0 < self.loss_scale < math.inf:
            raise ValueError(f"LOSS_SCALE = {self.loss_scale!r}: expected 'dynamic' or a positive number, e.g. 128.0")
        if self.apex and (self.precision not in ("o1", "auto") or self.compile):
            raise ValueError(
                f"APEX=True with PRECISION={self.precision!r} and COMPILE={self.compile!r}: expected 'o1' and False, "
                "for Apex patches torch's functions to do O1, which no compiler follows; set them so, or APEX = False"
            )
        if self.compile in CUDA_GRAPHS and self.accumulate > 1:
            raise ValueError(
                f"COMPILE={self.compile!r} with ACCUMULATE={self.accumulate}: expected 1, for a CUDA graph writes the "
                "gradients of one part over those of the part before; set ACCUMULATE = 1 or "
                "COMPILE = 'max-autotune-no-cudagraphs'"
            )
        if self.apex and self.recompute:
            raise ValueError(
                "RECOMPUTE=True with APEX=True: expected one of them, for Apex keeps casts that a second computation "
                "would not make again; set APEX = False, and PRECISION = 'o1' does the same casts without it"
            )

    def for_classes(self, num_classes: int) -> RunConfig:
        """The same run for a data set of so many classes, with all stages of a frozen backbone frozen."""
        cfg = replace(self.detector, num_classes=num_classes)
        if self.freeze == "backbone":
            cfg = replace(cfg, backbone=replace(cfg.backbone, frozen_stages=4))
        return replace(self, detector=cfg)


def passed_on(run: RunConfig) -> Iterator[tuple[object, str, object]]:
    """(dataclass, field, value) of what a run passes on to one that starts from its checkpoint.

    A part of the model is a value too, and comes before its own fields.
    """
    configs: list[object] = [run.optim, run.data, run.detector]
    for config in configs:
        of_model = not isinstance(config, (OptimConfig, DataConfig))
        for name, value in vars(config).items():
            if is_dataclass(value):
                configs.append(value)
            if name != "num_classes" if of_model else name in PASSED_ON:  # the number of classes is the data set's
                yield config, name, value
