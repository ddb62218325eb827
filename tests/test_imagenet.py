"""ImageNet weights from the servers that publish them, here a folder."""

from __future__ import annotations

import hashlib
import re
import socket
import urllib.error
from pathlib import Path

import pytest
import torch
from weight_states import SHAPES, assert_same, random_state

from gfl.config import config_folder, read_run, run_files
from gfl.engine import imagenet
from gfl.engine.imagenet import IMAGENET, fetch_imagenet
from gfl.errors import InputError
from gfl.model import backbones
from gfl.model.backbones.res2net import Res2NetConfig
from gfl.model.backbones.resnet import ResNetConfig
from gfl.settings import IMAGENET as SOURCES

R18 = ResNetConfig(depth=18)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for torchvision's server, with one file of 18 layers under the name of its hash."""
    folder = tmp_path / "server"
    folder.mkdir()
    ours = {path: tensor for path, tensor in random_state(1).items() if path.startswith("backbone.")}
    theirs = {path.removeprefix("backbone."): tensor for path, tensor in ours.items()} | {"fc.bias": torch.ones(2)}
    file = folder / "resnet18.pth"
    torch.save(theirs, file)
    named = folder / f"resnet18-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(named)
    monkeypatch.setitem(IMAGENET["torchvision"], "R18", named.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return named


def test_torchvision_weights_are_fetched_and_renamed(mirror: Path) -> None:
    read = fetch_imagenet("torchvision", R18)
    assert sorted(read.state) == sorted(path for path in SHAPES if path.startswith("backbone."))
    mirror.unlink()
    assert_same(fetch_imagenet("torchvision", R18).state, read.state)  # from the cache


def test_damaged_download_says_what_to_do(mirror: Path) -> None:
    mirror.write_bytes(mirror.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"invalid hash.*: delete .* or download file://.* as --checkpoint FILE"):
        fetch_imagenet("torchvision", R18)


def test_damaged_file_in_the_cache_is_named(mirror: Path, tmp_path: Path) -> None:
    fetch_imagenet("torchvision", R18)
    cached = tmp_path / "cache" / "hub" / "checkpoints" / mirror.name
    cached.write_bytes(cached.read_bytes()[:-200])
    with pytest.raises(InputError, match=f"delete {cached} if it is there"):
        fetch_imagenet("torchvision", R18)


@pytest.mark.parametrize("error", [urllib.error.URLError("timed out"), TimeoutError("timed out")])
def test_without_a_network_the_file_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        assert socket.getdefaulttimeout() == imagenet.DOWNLOAD_TIMEOUT_S
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    expected = (
        r"resnet50-0676ba61\.pth cannot be downloaded \(timed out\): expected a network; "
        r"download https://download\.pytorch\.org/models/resnet50-0676ba61\.pth yourself"
    )
    with pytest.raises(InputError, match=expected):
        fetch_imagenet("torchvision", ResNetConfig())
    assert socket.getdefaulttimeout() is None


def test_a_backbone_without_weights_is_refused_with_who_has_some() -> None:
    expected = r"'torchvision' has no weights of Res2Net101-26w4s, expected one of R18, .*CHECKPOINT = 'openmmlab'"
    with pytest.raises(InputError, match=expected):
        fetch_imagenet("torchvision", Res2NetConfig(deformable="v1"))
    with pytest.raises(InputError, match=r"no weights of X50-8x2d, .* or set CHECKPOINT = None"):
        fetch_imagenet("timm-rsb", ResNetConfig(depth=50, groups=8, group_width=2))


def test_every_file_is_named_after_its_hash_and_every_source_is_a_knobs_value() -> None:
    assert set(SOURCES) == set(IMAGENET)
    assert all(f"'{source}'" in (config_folder() / "base.gin").read_text() for source in SOURCES)
    urls = [url for files in IMAGENET.values() for url in files.values()]
    assert all(re.fullmatch(r"https://\S+-[0-9a-f]{8}\.pth", url) for url in urls)
    assert len(set(urls)) == len(urls)


def test_every_run_file_from_imagenet_has_weights_of_its_backbone() -> None:
    for name in run_files():
        if name != "finetune.gin":
            run = read_run([name]).run
            plain = backbones.name(run.detector.backbone).partition("-DCN")[0]
            assert run.checkpoint is None or plain in IMAGENET[run.checkpoint], name
