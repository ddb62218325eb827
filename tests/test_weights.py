"""Weights from every format of file into a tree of variables."""

from __future__ import annotations

import hashlib
import json
import socket
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_states import SHAPES, assert_same, random_state

from gfl.engine import weights
from gfl.engine.weight_fit import compare, fit
from gfl.engine.weights import fetch_torchvision, read_checkpoint, rename
from gfl.errors import InputError
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


# torchvision


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for torchvision's server, with one file of 18 layers under the name of its hash."""
    folder = tmp_path / "server"
    folder.mkdir()
    ours = {path: tensor for path, tensor in random_state(1).items() if path.startswith("backbone.")}
    theirs = {path.removeprefix("backbone."): tensor for path, tensor in ours.items()} | {"fc.bias": torch.ones(2)}
    file = saved(theirs, folder / "resnet18.pth")
    named = folder / f"resnet18-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(named)
    monkeypatch.setattr(weights, "TORCHVISION_URL", folder.as_uri() + "/")
    monkeypatch.setitem(weights.TORCHVISION_FILES, 18, named.name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return named


def test_torchvision_weights_are_fetched_and_renamed(mirror: Path) -> None:
    read = fetch_torchvision(18)
    assert sorted(read.state) == sorted(path for path in SHAPES if path.startswith("backbone."))
    mirror.unlink()
    assert_same(fetch_torchvision(18).state, read.state)  # from the cache


def test_damaged_download_says_what_to_do(mirror: Path) -> None:
    mirror.write_bytes(mirror.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"invalid hash.*: delete .* or download file://.* as --checkpoint FILE"):
        fetch_torchvision(18)


def test_damaged_file_in_the_cache_is_named(mirror: Path, tmp_path: Path) -> None:
    fetch_torchvision(18)
    cached = tmp_path / "cache" / "hub" / "checkpoints" / mirror.name
    cached.write_bytes(cached.read_bytes()[:-200])
    with pytest.raises(InputError, match=f"delete {cached} if it is there"):
        fetch_torchvision(18)


@pytest.mark.parametrize("error", [urllib.error.URLError("timed out"), TimeoutError("timed out")])
def test_without_a_network_the_file_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        assert socket.getdefaulttimeout() == weights.DOWNLOAD_TIMEOUT_S
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    expected = (
        r"resnet50-0676ba61\.pth cannot be downloaded \(timed out\): expected a network; "
        r"download https://download\.pytorch\.org/models/resnet50-0676ba61\.pth yourself"
    )
    with pytest.raises(InputError, match=expected):
        fetch_torchvision(50)
    assert socket.getdefaulttimeout() is None


def test_depth_without_torchvision_weights_is_refused() -> None:
    with pytest.raises(InputError, match=r"depth 26: expected one of \[18, 34, 50, 101\]"):
        fetch_torchvision(26)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    assert read_checkpoint("~/w.pth").state.keys() == {"a"}
