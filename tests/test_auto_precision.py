"""A run with PRECISION = 'auto': what it says and writes, how it goes on elsewhere, and that evaluation is in float32.

This machine may have no bfloat16 of its own: that it has some is pretended, and torch emulates it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from tiny import log_lines, run_training

from gfl import evaluate, train
from gfl.config import read_text
from gfl.engine import precision_choice
from gfl.engine.checkpoints import load_trained, read_state
from gfl.operators.trace import OpTrace
from gfl.runtime.on_torch.pt_file import predictor

HALF_AN_EPOCH = ("PRECISION = 'auto'", "MAX_STEPS = 2", "SAVE_EVERY = 2", tiny.SEES_EVERYTHING)
RESUME = ("--gin_bindings", "MAX_STEPS = 4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("auto") / "data")


@pytest.fixture
def half(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Two of four steps where the CPU has AVX512_BF16."""
    pretend(monkeypatch, "AVX512_BF16")
    return run_training(data, tmp_path / "run", *HALF_AN_EPOCH)


def pretend(monkeypatch: pytest.MonkeyPatch, instructions: str) -> None:
    monkeypatch.setattr(precision_choice, "native_bfloat16", lambda: instructions)


def losses(run: Path) -> list[object]:
    return [line["loss"] for line in log_lines(run) if "loss" in line]


def test_run_says_and_writes_what_was_chosen_and_why(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert " | bf16 (auto: this CPU has AVX512_BF16) | " in capsys.readouterr().out
    environment = json.loads((half / "env.json").read_text())
    assert (environment["precision"], environment["precision_asked"]) == ("bf16", "auto")
    assert environment["precision_reason"] == "this CPU has AVX512_BF16"
    asked, used = (read_text((half / name).read_text()).run.precision for name in ("config.gin", "operative.gin"))
    assert (asked, used) == ("auto", "bf16")
    saved = read_state(half / "last.pt")
    assert saved["precision"] == "bf16"
    assert read_text(str(saved["config"])).run.precision == "auto"
    assert read_text(str(saved["operative"])).run.precision == "bf16"


def test_run_is_computed_in_what_was_chosen(half: Path, data: Path, tmp_path: Path) -> None:
    named = run_training(data, tmp_path / "named", *HALF_AN_EPOCH, "PRECISION = 'bf16'")
    single = run_training(data, tmp_path / "single", *HALF_AN_EPOCH, "PRECISION = 'fp32'")
    assert losses(half) == losses(named) != losses(single)
    assert "precision_reason" not in json.loads((named / "env.json").read_text())


def test_run_goes_on_in_its_own_precision_where_auto_would_be_another(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_home = tmp_path / "at_home"
    shutil.copytree(half, at_home)
    assert train.main(["--resume", "--workdir", str(at_home), *RESUME]) == 0
    assert "note    PRECISION" not in capsys.readouterr().out
    pretend(monkeypatch, "")
    assert train.main(["--resume", "--workdir", str(half), *RESUME]) == 0
    said = capsys.readouterr().out
    assert " | bf16 (auto: as the run began) | " in said
    assert "PRECISION = 'auto' would be 'fp32' here" in said
    assert "PRECISION = 'bf16' is slow on this CPU" in said
    assert losses(half) == losses(at_home)


def test_precision_that_is_given_on_resume_is_taken_and_said(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--resume", "--workdir", str(half), *RESUME, "PRECISION = 'fp32'"]) == 0
    assert "the run computes in 'fp32' from here on, 'bf16' until now" in capsys.readouterr().out
    environment = json.loads((half / "env.json").read_text())
    assert [environment["precision"], *(each["precision"] for each in environment["resumed"])] == ["bf16", "fp32"]


def test_model_trained_in_bfloat16_is_evaluated_in_float32(half: Path, data: Path, tmp_path: Path) -> None:
    """In the run as after it: the same detections, and prepared weights of no other type."""
    arguments = ["--checkpoint", str(half / "last.pt"), "--annotations", str(tiny.annotations(data, "val"))]
    arguments += ["--images", str(data / "val2017"), "--output", str(tmp_path / "out")]
    arguments += ["--batch", str(tiny.BATCH), "--workers", "0", "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    found, expected = (
        [row["score"] for row in json.loads((folder / "val_detections.json").read_text())]
        for folder in (tmp_path / "out", half)
    )
    assert found == pytest.approx(expected, rel=1e-5)  # bfloat16 rounds by 4e-3
    model, batch = load_trained(half / "last.pt"), tiny.make_batch()
    predict = predictor(model.variables, model.run.detector, torch.device("cpu"))
    with OpTrace() as trace:
        predict(batch.images, batch.image_sizes)
    assert not [op.name for op in trace.ops if torch.bfloat16 in op.dtypes]
