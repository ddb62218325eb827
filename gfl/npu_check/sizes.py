"""What the parts train and export: the paper's model on a GPU or an NPU, a tiny one on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Recipe(NamedTuple):
    """A training run on generated pictures, every fourth of which is taller than wide: it has two canvases."""

    name: str  # of the folder of its pictures
    gin_file: str
    bindings: tuple[str, ...]
    pictures_hw: tuple[int, int]
    train: int  # pictures
    val: int


class Sizes(NamedTuple):
    """What a check on one kind of device trains and exports."""

    steps: Recipe  # for the parts that look at single steps
    canvas: str  # HxW, of the exported model of `steps`
    learning: Recipe  # a run that learns enough for its detections to be compared
    least_ap: float  # that `learning` must reach
    minutes: float  # that one command may take
    variables: Mapping[str, str]  # added to the environment of the programs


STEPS = 20  # of the parts `training` and `o1`
RANK_STEPS = 5  # of the part `ranks`
SPEED_STEPS = 40  # of the part `speed`, which measures the second half

# The paper's R50 at 800x1088, from random weights: two ways of computing are compared, whatever the model learns.
DEVICE = Sizes(
    steps=Recipe(
        "steps",
        "r50.gin",
        ("CHECKPOINT = None", "BATCH_SIZE = 4", "WARMUP_STEPS = 100", "WORKERS = 4"),
        pictures_hw=(480, 640),
        train=4 * SPEED_STEPS,  # one epoch, for the loader starts anew in the next
        val=8,
    ),
    canvas="800x1088",
    # The demo's own data set, for three epochs.
    learning=Recipe(
        "learning", "demo.gin", ("EPOCHS = 3", "EVAL_EVERY = 3"), pictures_hw=(192, 256), train=480, val=96
    ),
    least_ap=0.10,  # seen on a CPU: 0.228
    minutes=60.0,
    variables={},
)

# On a CPU float16 convolutions are about 100 times slower than float32 ones: a model of a few million multiplications.
CPU = Sizes(
    steps=Recipe("steps", "tiny.gin", (), pictures_hw=(64, 96), train=4 * SPEED_STEPS, val=4),
    canvas="64x96",
    learning=Recipe(
        "learning",
        "demo.gin",
        (
            "SHORT_SIDE = 96",
            "EVAL_SHORT_SIDE = 96",
            "LONG_SIDE = 128",
            "BATCH_SIZE = 4",
            "EVAL_EVERY = 16",
            "WARMUP_STEPS = 20",
            "EMA = 0.98",
            "WORKERS = 0",
            "resnet.ResNetConfig.base_width = 16",
            "fpn.FPNConfig.channels = 32",
            "head.HeadConfig.channels = 32",
            "head.HeadConfig.convs = 1",
        ),
        pictures_hw=(96, 128),
        train=96,
        val=16,
    ),
    least_ap=0.05,  # seen: 0.119
    minutes=10.0,
    variables={"OMP_NUM_THREADS": "1"},  # a tiny model gains nothing from more threads
)
