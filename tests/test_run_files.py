"""Every run file of gin/ as a person uses it: a step, stopped; gone on with; evaluated; exported at 256x320."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

import export.onnx
from gfl import evaluate, load, train
from gfl.config import config_folder, read_run, run_files
from gfl.data.synthetic import write_synthetic
from gfl.model import backbones, detector

CANVAS = (256, 320)
SMALL = ("scratch_small.gin",)  # other tests try out tiny.gin
PUBLISHED = {
    "r50.gin": "R50",
    "r50_ms2x.gin": "R50",
    "r101_ms2x.gin": "R101",
    "r101_dcn_ms2x.gin": "R101-DCN",
    "x101_dcn_ms2x.gin": "X101-32x4d-DCN",
    "res2net101_dcn_ms2x.gin": "Res2Net101-26w4s-DCN",
    "gfl_v1_r50.gin": "R50",
}
BINDINGS = (
    "CHECKPOINT = None",
    f"CANVASES = ({CANVAS}, {CANVAS[::-1]})",  # some pictures stand
    "SHORT_SIDE = 256",
    "EVAL_SHORT_SIDE = 256",
    "LONG_SIDE = 320",
    "BATCH_SIZE = 2",
    "LR = 0.0001",  # 'from random weights': the recipes' rates are for ImageNet's
    "WARMUP_STEPS = 0",
    "LOG_EVERY = 1",
    "WORKERS = 0",
    "REPORT = False",
    "DEVICE = 'cpu'",
    "PRECISION = 'fp32'",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_synthetic(folder, train=4, val=2, size_hw=CANVAS)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What finetune.gin starts from."""
    run = tiny.run_training(data, tmp_path_factory.mktemp("tiny") / "run", "MAX_STEPS = 1")
    return run / "best.pt"


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in run_files()]
)
def test_run_file_trains_resumes_evaluates_and_exports(name: str, data: Path, trained: Path, tmp_path: Path) -> None:
    run, annotations, images = tmp_path / "run", str(tiny.annotations(data, "val")), str(data / "val2017")
    bindings = [f"DATA_ROOT = {str(data)!r}", *BINDINGS]
    if name == "finetune.gin":
        bindings[1] = f"CHECKPOINT = {str(trained)!r}"
    start = ["--gin_file", name, "--workdir", str(run), "--gin_bindings", *bindings, "MAX_STEPS = 1"]
    assert train.main(start) == 0
    assert train.main(["--resume", "--workdir", str(run), "--gin_bindings", "MAX_STEPS = 2"]) == 0
    losses = [line["loss"] for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "loss" in line]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    checkpoint = str(run / "best.pt")
    arguments = ["--checkpoint", checkpoint, "--annotations", annotations, "--images", images, "--no-report"]
    assert evaluate.main([*arguments, "--device", "cpu"]) == 0
    onnx = tmp_path / "best.onnx"
    size = f"{CANVAS[0]}x{CANVAS[1]}"
    assert export.onnx.main(["--checkpoint", checkpoint, "--size", size, "--output", str(onnx)]) == 0
    picture = np.random.default_rng(0).integers(0, 255, (*CANVAS, 3), dtype=np.uint8)
    assert load(onnx)(picture).scores == pytest.approx(load(checkpoint)(picture).scores, abs=1e-4)


def test_published_recipes_are_what_their_names_say() -> None:
    settings = {name: read_run([name]).run for name in PUBLISHED}
    assert {name: backbones.name(run.detector.backbone) for name, run in settings.items()} == PUBLISHED
    assert detector.name(settings["gfl_v1_r50.gin"].detector) == "R50-FPN GFL v1"
    for name, run in settings.items():
        schedule = (run.epochs, run.optim.decay_epochs, run.data.short_side)
        ms2x = (24, (16, 22), (480, 960))
        assert schedule == (ms2x if "ms2x" in name else (12, (8, 11), 800)), name
        assert (run.data.canvases, run.optim.lr, run.batch_size) == ("auto", 0.01, 16)
    deformable = {name: run.detector.backbone.deformable_stages for name, run in settings.items() if "dcn" in name}
    assert deformable == {
        "r101_dcn_ms2x.gin": (2, 3, 4),
        "x101_dcn_ms2x.gin": (3, 4),
        "res2net101_dcn_ms2x.gin": (3, 4),
    }


def test_every_run_file_says_what_it_is_and_its_command() -> None:
    for name in run_files():
        text = (config_folder() / name).read_text()
        assert f"python -m gfl.train --gin_file {name}" in text, name
        if name in PUBLISHED:
            assert " AP (minival)" in text, name
