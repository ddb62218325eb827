"""A detector and a data set so small that a training run takes a second; what the tests of the programs share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gfl import train
from gfl.data.synthetic import write_synthetic
from gfl.engine.module import DetectorModule
from gfl.engine.state import TrainState, make_state
from gfl.model import detector
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.structures import Batch
from gfl.settings import OptimConfig, RunConfig
from gfl.shapes import Canvas
from gfl.tensors.precision import FP32, Policy

CANVAS: Canvas = (64, 96)
TRAIN_PICTURES, VAL_PICTURES, BATCH = 6, 3, 2
STEPS_AN_EPOCH = 4  # 5 pictures lie and 1 stands: 3 batches of one canvas and 1 of the other
GIN_FILE = "tiny.gin"
BINDINGS = (
    f"BATCH_SIZE = {BATCH}",
    "EPOCHS = 1",
    "EVAL_EVERY = 1",
    "OPTIMIZER = 'adamw'",
    "LR = 0.004",
    "SCHEDULE = 'cosine'",
    "FINAL_LR = 0.01",
    "WARMUP_STEPS = 2",
    "CLIP = 10.0",
    "LOG_EVERY = 1",
    "REPORT = False",  # drawing takes longer than these runs
    "DEVICE = 'cpu'",
    "head.HeadConfig.background_channel = False",
)
# A model fresh from its random weights finds nothing above the usual threshold: without one, there is something to see.
SEES_EVERYTHING = "postprocess.PredictConfig.score_threshold = 0.0"


# ---- the program ----


def write_data(folder: Path) -> Path:
    """A generated data set in COCO's layout; the folder itself."""
    write_synthetic(folder, train=TRAIN_PICTURES, val=VAL_PICTURES, size_hw=CANVAS)
    return folder


def annotations(data: Path, split: str = "train") -> Path:
    return data / "annotations" / f"instances_{split}2017.json"


def change_annotations(data: Path, change: Callable[[dict[str, list[dict[str, object]]]], None], split: str) -> None:
    """Rewrite an annotation file after `change` has changed its content in place."""
    content = json.loads(annotations(data, split).read_text())
    change(content)
    annotations(data, split).write_text(json.dumps(content))


def turn_ids(content: dict[str, list[dict[str, object]]]) -> None:
    """For `change_annotations`: the same boxes and class names, under other category ids in the opposite order."""
    for rows, key in (("categories", "id"), ("annotations", "category_id")):
        for row in content[rows]:
            row[key] = 100 - int(str(row[key]))


def train_arguments(data: Path, workdir: Path, *bindings: str, flags: Sequence[str] = ()) -> list[str]:
    """Arguments of a run on a data set; bindings win over those above."""
    bound = [f"DATA_ROOT = {str(data)!r}", *BINDINGS, *bindings]
    return ["--gin_file", GIN_FILE, "--workdir", str(workdir), *flags, "--gin_bindings", *bound]


def run_training(data: Path, workdir: Path, *bindings: str, flags: Sequence[str] = ()) -> Path:
    """A run that must end well; its folder."""
    assert train.main(train_arguments(data, workdir, *bindings, flags=flags)) == 0
    return workdir


def log_lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def refusal(main: Callable[[Sequence[str]], int], arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a program says to a user's mistake: exit code 2 and one line on stderr."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    return said


# ---- the parts ----


def detector_config(norm: str = "gn") -> DetectorConfig:
    """ResNet-18 of a quarter of its width; 'frozen_bn' freezes the stem and the first stage, as the recipe does."""
    frozen_stages = 1 if norm == "frozen_bn" else -1
    return DetectorConfig(
        num_classes=3,
        backbone=ResNetConfig(18, base_width=16, norm=norm, gn_groups=8, frozen_stages=frozen_stages),
        neck=FPNConfig(channels=16),
        head=HeadConfig(channels=16, convs=1, gn_groups=8),
    )


def run_config(optim: OptimConfig, norm: str = "gn", **changes: object) -> RunConfig:
    return RunConfig(detector=detector_config(norm), optim=optim, batch_size=BATCH, **changes)  # type: ignore[arg-type]


def make(cfg: RunConfig, seed: int = 0, policy: Policy = FP32) -> TrainState:
    """A state at step 0 on the CPU."""
    variables = detector.init(cfg.detector, seed)
    return make_state(DetectorModule(variables, cfg.detector, [CANVAS], torch.device("cpu"), policy=policy), cfg)


def make_batch(seed: int = 0, pictures: int = BATCH) -> Batch:
    """Noise with three boxes a picture; a fourth slot is empty."""
    generator = torch.Generator().manual_seed(seed)
    height, width = CANVAS
    corners = torch.rand((pictures, 4, 2), generator=generator) * torch.tensor([width / 2, height / 2])
    sizes = 12 + 20 * torch.rand((pictures, 4, 2), generator=generator)
    filled = torch.tensor([True, True, True, False]).repeat(pictures, 1)
    return Batch(
        images=torch.randint(0, 256, (pictures, 3, height, width), generator=generator, dtype=torch.uint8),
        image_sizes=torch.tensor([height, width], dtype=torch.int32).repeat(pictures, 1),
        boxes_xyxy=torch.cat([corners, corners + sizes], dim=2) * filled.unsqueeze(2),
        labels=torch.tensor([0, 1, 2, 0], dtype=torch.int32).repeat(pictures, 1),
        box_mask=filled,
        ignored_xyxy=torch.zeros(pictures, 1, 4),
        ignored_mask=torch.zeros(pictures, 1, dtype=torch.bool),
        image_weights=torch.ones(pictures),
    )


def tensors_of(tree: object, path: str = "") -> dict[str, Tensor]:
    """Every tensor of nested containers by its path, copied."""
    if isinstance(tree, Tensor):
        return {path: tree.detach().clone()}
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    found: dict[str, Tensor] = {}
    for key, value in entries:
        found |= tensors_of(value, f"{path}/{key}")
    return found


def assert_equal_bits(left: object, right: object) -> None:
    """The same tensors, bit for bit, in two trees."""
    one, other = tensors_of(left), tensors_of(right)
    assert one.keys() == other.keys()
    assert [path for path, tensor in one.items() if not torch.equal(tensor, other[path])] == []


def copy_of(state: TrainState) -> TrainState:
    return deepcopy(state)
