"""Foreign weights with deformable layers: the version that they have decides, and everyone is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
import torch

from gfl.config import ParsedRun, read_run, read_text
from gfl.engine.checkpoints import initial_variables, load_trained, with_text
from gfl.errors import InputError
from gfl.model import detector
from gfl.tensors.variables import flatten

NAMES = ("cat", "dog", "fox")
MODEL = ("resnet.ResNetConfig.depth = 50", "resnet.ResNetConfig.deformable_stages = (4,)")


def settings(version: str | None, *more: str) -> ParsedRun:
    bindings = [*tiny.BINDINGS, *MODEL, f"resnet.ResNetConfig.deformable = {version!r}", *more]
    return read_run([tiny.GIN_FILE], bindings)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As mmdetection writes it, with 27 offset channels."""
    path = tmp_path_factory.mktemp("foreign") / "dcnv2.pth"
    cfg = settings("v2").run.detector
    cfg = detector.DetectorConfig(3, cfg.backbone, cfg.neck, cfg.head)
    torch.save({"state_dict": flatten(detector.init(cfg)), "meta": {"CLASSES": NAMES}}, path)
    return path


def test_a_model_is_built_with_the_version_of_its_file_and_says_so_in_one_line(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings("v1")
    model = load_trained(foreign, given.run)
    said = capsys.readouterr().err
    assert re.fullmatch(r"note: .*dcnv2.pth has deformable convolutions v2 \(27 .*the settings say v1.*\n", said)
    assert model.run.detector.backbone.deformable == "v2"
    text = with_text(model, given).config_text
    assert read_text(text).run.detector.backbone == model.run.detector.backbone  # what an export says of itself


@pytest.mark.parametrize("version", ["v1", None])
def test_a_run_starts_from_weights_of_its_own_version_alone(foreign: Path, version: str | None) -> None:
    run = settings(version, f"CHECKPOINT = {str(foreign)!r}").run
    expected = (
        rf"has deformable convolutions v2 \(27 .*expected {version or 'none'} .*set ResNetConfig.deformable = 'v2'"
    )
    with pytest.raises(InputError, match=expected):
        initial_variables(run, NAMES)


def test_a_run_with_deformable_layers_starts_from_ordinary_weights(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    torch.save(flatten(detector.init(settings(None).run.detector)), path)
    variables, origin = initial_variables(settings("v1", f"CHECKPOINT = {str(path)!r}").run, NAMES)
    offsets = [leaf for name, leaf in flatten(variables).items() if "conv_offset" in name]
    assert len(offsets) == 6
    assert not any(leaf.any() for leaf in offsets)
    assert "missing in the file" in origin.table


def test_offsets_of_no_version_are_refused(foreign: Path, tmp_path: Path) -> None:
    state = torch.load(foreign)["state_dict"]
    name = next(name for name in state if name.endswith("conv_offset.weight"))
    for channels, said in ((18, "18 and 27"), (36, "27 and 36")):
        state[name] = state[name].new_zeros((channels, *state[name].shape[1:]))
        torch.save(state, tmp_path / "odd.pth")
        with pytest.raises(InputError, match=f"with {said} offset channels, expected 18 .v1. or 27 .v2. in all"):
            load_trained(tmp_path / "odd.pth", settings("v2").run, NAMES)
