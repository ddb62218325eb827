"""Weights from every format of file into a tree of variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from weight_states import assert_same, random_state

from gfl.config import read_run
from gfl.engine.weight_fit import compare, fit
from gfl.engine.weights import RES2NET_STEM, read_checkpoint, rename
from gfl.errors import InputError
from gfl.model import detector
from gfl.tensors.variables import flatten, unflatten


def saved(contents: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    return path


# Formats


@pytest.mark.parametrize("legacy", [False, True])
def test_mmdetection_file_gives_weights_and_class_names(tmp_path: Path, legacy: bool) -> None:
    state = random_state(1)
    file = saved({"state_dict": state, "meta": {"CLASSES": ("cat", "dog")}}, tmp_path / "a.pth", legacy=legacy)
    read = read_checkpoint(file)
    assert_same(read.state, state)
    assert read.names == ("cat", "dog")
    assert read.path == file


def test_mmdetection_3_file_gives_class_names(tmp_path: Path) -> None:
    meta = {"dataset_meta": {"classes": ["cat", "dog"]}}
    read = read_checkpoint(saved({"state_dict": random_state(1), "meta": meta}, tmp_path / "a.pth"))
    assert read.names == ("cat", "dog")


def test_single_class_name_is_one_class_not_its_letters(tmp_path: Path) -> None:
    read = read_checkpoint(saved({"state_dict": random_state(1), "meta": {"CLASSES": "cat"}}, tmp_path / "a.pth"))
    assert read.names == ("cat",)


@pytest.mark.parametrize("meta", [None, {}, {"CLASSES": None}, "text"])
def test_mmdetection_file_without_class_names_gives_none(tmp_path: Path, meta: object) -> None:
    assert read_checkpoint(saved({"state_dict": random_state(1), "meta": meta}, tmp_path / "a.pth")).names is None


def test_bare_state_dict_is_read(tmp_path: Path) -> None:
    state = random_state(1)
    read = read_checkpoint(saved(state, tmp_path / "a.pth"))
    assert_same(read.state, state)
    assert read.names is None


def test_safetensors_file_gives_weights_and_metadata(tmp_path: Path) -> None:
    state = random_state(1)
    save_file(state, tmp_path / "a.safetensors", metadata={"origin": "here"})
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert_same({path: read.state[path] for path in state}, state)
    assert len(read.state) == len(state)
    assert read.extra == {"origin": "here"}


def test_own_file_gives_weights_names_and_extra_fields(tmp_path: Path) -> None:
    state = random_state(1)
    contents = {"variables": state, "names": ["cat"], "config": "LR = 1", "canvases": [(64, 96)]}
    read = read_checkpoint(saved(contents, tmp_path / "a.pt"))
    assert_same(read.state, state)
    assert read.names == ("cat",)
    assert read.extra == {"names": ["cat"], "config": "LR = 1", "canvases": [(64, 96)]}


@pytest.mark.parametrize("ema", [None, {}])
def test_own_file_without_averages_gives_its_variables(tmp_path: Path, ema: object) -> None:
    state = random_state(1)
    assert_same(read_checkpoint(saved({"variables": state, "ema": ema}, tmp_path / "a.pt")).state, state)


def test_averages_win_over_variables_leaf_by_leaf(tmp_path: Path) -> None:
    state, averaged = random_state(1), random_state(2)
    del averaged["backbone.bn1.running_mean"]
    read = read_checkpoint(saved({"variables": state, "ema": averaged}, tmp_path / "a.pt"))
    assert_same(read.state, state | averaged)


def test_torchvision_names_go_below_backbone_and_the_classifier_is_dropped() -> None:
    ours = {path: tensor for path, tensor in random_state(1).items() if path.startswith("backbone.")}
    theirs = {path.removeprefix("backbone."): tensor for path, tensor in ours.items()}
    assert_same(rename(theirs | {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}), ours)


def published_names(backbone: str, family_goldens: Path) -> dict[str, torch.Tensor]:
    """An ImageNet classifier of another project, by the names that its code gives: mmdetection's are ours."""
    shapes: dict[str, list[int]] = json.loads((family_goldens / "keys_family.json").read_text())[backbone]
    ours = {path: torch.empty(shape, device="meta") for path, shape in shapes.items() if path.startswith("backbone.")}
    return {path.removeprefix("backbone."): tensor for path, tensor in ours.items()}


@pytest.mark.parametrize("backbone", ["x101", "r2n101"])
def test_mmdetections_imagenet_files_fit_without_rest(backbone: str, family_goldens: Path) -> None:
    names = published_names(backbone, family_goldens)
    ours = {f"backbone.{name}" for name in names}
    assert rename(names).keys() == ours
    # mmpretrain's
    assert rename({f"backbone.{name}": names[name] for name in names} | {"head.fc.bias": torch.ones(2)}).keys() == ours


def test_names_of_res2nets_authors_fit_without_rest(family_goldens: Path) -> None:
    """In their code the stem is `conv1`, seven modules in a row, and `bn1`."""
    theirs = {name: tensor for name, tensor in published_names("r2n101", family_goldens).items() if "stem" not in name}
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    theirs |= {f"conv1.{i}.weight": torch.ones(3) for i in (0, 3, 6)} | {"fc.weight": torch.ones(2, 2)}
    theirs |= {f"{norm}.{leaf}": torch.ones(3) for norm in ("conv1.1", "conv1.4", "bn1") for leaf in batch_norm}
    ours = {f"backbone.{name}" for name in published_names("r2n101", family_goldens)}
    assert rename(theirs).keys() == ours
    assert RES2NET_STEM["bn1"] == "stem.7"  # and no block's bn1 was taken for it:
    assert "backbone.layer1.0.bn1.weight" in ours


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefix_of_a_wrapper_is_stripped(wrapper: str) -> None:
    state = random_state(1)
    assert_same(rename({wrapper + path: tensor for path, tensor in state.items()}), state)


def test_constant_of_the_integral_is_dropped() -> None:
    state = random_state(1)
    assert_same(rename(state | {"bbox_head.integral.project": torch.arange(17.0)}), state)


def test_r50_of_the_authors_fits_without_rest(goldens: Path) -> None:
    shapes = json.loads((goldens / "keys.json").read_text())["r50"]
    theirs = {path: torch.empty(shape, device="meta") for path, shape in shapes.items()}
    ours = rename(theirs)
    assert len(theirs) == 372
    assert len(ours) == 371
    report = compare(ours, ours)
    assert (len(report.kept), report.reinitialised, report.missing, report.left_over) == (371, (), (), ())
    assert report.table().split() == ["backbone", "318", "kept", "neck", "16", "kept", "bbox_head", "37", "kept"]


@pytest.mark.parametrize(
    ("run_file", "model", "classes"),
    [
        ("r50_ms2x.gin", "r50", 81),
        ("r101_ms2x.gin", "r101", 81),
        ("r101_dcn_ms2x.gin", "r101_dcn_c3c5", 81),
        ("x101_dcn_ms2x.gin", "x101_dcn_c4c5", 81),
        ("res2net101_dcn_ms2x.gin", "r2n101_dcn_c4c5", 81),
        ("gfl_v1_r50.gin", "gfl_v1_r50", 80),
    ],
)
def test_published_checkpoints_fit_their_run_files_without_rest(
    run_file: str, model: str, classes: int, family_goldens: Path
) -> None:
    shapes: dict[str, dict[str, list[int]]] = {}
    for file in ("keys.json", "keys_family.json"):
        if (family_goldens / file).is_file():
            shapes |= json.loads((family_goldens / file).read_text())
    if model not in shapes:
        pytest.skip(f"no keys of {model} in {family_goldens}")
    theirs = {path: torch.empty(shape, device="meta") for path, shape in shapes[model].items()}
    assert theirs["bbox_head.gfl_cls.bias"].shape == (classes,)
    with FakeTensorMode():
        ours = flatten(detector.init(read_run([run_file]).run.detector))
    report = compare(ours, rename(theirs))
    assert (report.reinitialised, report.missing, report.left_over) == ((), (), ())
    assert len(report.kept) == len(ours) == len(theirs) - 1  # the integral's constant


def test_checkpoint_of_the_authors_modules_is_read(checkpoint_goldens: Path) -> None:
    read = read_checkpoint(checkpoint_goldens / "model.pth")
    assert read.names == ("RBC", "WBC", "Platelets")
    assert len(read.state) == 101
    assert read.state["bbox_head.gfl_cls.weight"].shape == (4, 64, 3, 3)
    zeros = unflatten({path: torch.zeros_like(tensor) for path, tensor in read.state.items()})
    fitted, report = fit(zeros, read.state, require_all=True)
    assert_same(flatten(fitted), read.state)
    assert len(report.kept) == 101


# Files that cannot be read


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pth: no such file; expected this project's \.pt"):
        read_checkpoint(tmp_path / "gone.pth")


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors"])
@pytest.mark.parametrize(
    "contents", [b"", b"<html>404</html>", bytes(range(256)) * 8, b"\x80\x02}q\x00.", b"PK\x03\x04"]
)
def test_foreign_bytes_are_one_sentence(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(InputError, match=name) as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_file_cut_short_is_one_sentence(tmp_path: Path, legacy: bool, share: float) -> None:
    whole = saved({"state_dict": random_state(1)}, tmp_path / "whole.pth", legacy=legacy).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"cut\.pth \(\d+ bytes\) cannot be read: it is damaged, cut short"):
        read_checkpoint(tmp_path / "cut.pth")


def test_safetensors_cut_short_is_one_sentence(tmp_path: Path) -> None:
    save_file(random_state(1), tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-7])
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(tmp_path / "a.safetensors")


class Planted:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("planted"),)


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.chdir(tmp_path)
    file = saved({"state_dict": random_state(1), "meta": Planted()}, tmp_path / "a.pth", legacy=legacy)
    with pytest.raises(InputError, match=r"holds objects of [\w., ]+, expected tensors and plain values only"):
        read_checkpoint(file)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        ({"variables": {}, "names": ["a", ["b", "b"]]}, "has a list among its class names, expected text"),
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "a int under 'epoch'"),
        ({"variables": 3}, "holds a int for weights"),
        ({"state_dict": {"a": "b"}}, "a str under 'a'"),
        ({"state_dict": {1: torch.ones(1)}}, "under 1"),
        (torch.ones(1), "holds a Tensor"),
    ],
)
def test_contents_that_are_no_weights_are_named(tmp_path: Path, contents: object, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_checkpoint(saved(contents, tmp_path / "a.pt"))


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    assert read_checkpoint("~/w.pth").state.keys() == {"a"}
