"""ImageNet weights of a backbone, fetched from where others publish them: CHECKPOINT = 'torchvision' and its like."""

from __future__ import annotations

import http.client
import socket
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from gfl.engine.weights import CheckpointFile, rename, tensors_of
from gfl.errors import InputError, first_line
from gfl.model import backbones
from gfl.model.backbones import BackboneConfig

_PYTORCH = "https://download.pytorch.org/models/"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rsb-weights/"

# CHECKPOINT -> the backbone's name -> the file, whose name ends in the beginning of its SHA-256.
IMAGENET: dict[str, dict[str, str]] = {
    "torchvision": {  # IMAGENET1K_V1, which the papers' recipes start from
        "R18": f"{_PYTORCH}resnet18-f37072fd.pth",
        "R34": f"{_PYTORCH}resnet34-b627a593.pth",
        "R50": f"{_PYTORCH}resnet50-0676ba61.pth",
        "R101": f"{_PYTORCH}resnet101-63fe2227.pth",
    },
    "torchvision-v2": {  # IMAGENET1K_V2, of a longer training
        "R50": f"{_PYTORCH}resnet50-11ad3fa6.pth",
        "R101": f"{_PYTORCH}resnet101-cd907fc2.pth",
    },
    "timm-rsb": {  # "ResNet strikes back" (arXiv 2110.00476), its longest recipe A1
        "R18": f"{_TIMM}resnet18_a1_0-d63eafa0.pth",
        "R50": f"{_TIMM}resnet50_a1_0-14fe96d1.pth",
        "R101": f"{_TIMM}resnet101_a1_0-cdcb52a9.pth",
    },
    "openmmlab": {  # what mmdetection's recipes start from where torchvision has none
        "X101-32x4d": f"{_OPENMMLAB}resnext101_32x4d-a5af3160.pth",
        "Res2Net101-26w4s": f"{_OPENMMLAB}res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
    },
}
DOWNLOAD_TIMEOUT_S = 30.0  # without an answer from the server


def fetch_imagenet(source: str, cfg: BackboneConfig) -> CheckpointFile:
    """Download a source's weights of a backbone, or take them from PyTorch's cache.

    source: a key of IMAGENET. Deformable layers start from their ordinary weights, with offsets of zero.
    Raises InputError for a backbone without such a file, without a network, and for a damaged download.
    """
    backbone = backbones.name(replace(cfg, deformable=None))
    if backbone not in IMAGENET[source]:
        having = [other for other, files in IMAGENET.items() if backbone in files]
        mend = f"set CHECKPOINT = {having[0]!r}" if having else "set CHECKPOINT = None"
        raise InputError(
            f"CHECKPOINT = {source!r} has no weights of {backbone}, expected one of {', '.join(IMAGENET[source])}; "
            f"give --checkpoint FILE or {mend}"
        )
    url = IMAGENET[source][backbone]
    name = Path(url).name
    by_hand = f"download {url} yourself and give it as --checkpoint FILE"
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_S):
            contents: object = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", check_hash=True, weights_only=True
            )
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(f"{name} cannot be downloaded ({reason}): expected a network; {by_hand}") from error
    except Exception as error:  # a hash that differs, a full disk, a damaged file in the cache: the unpickler's too
        cached = Path(torch.hub.get_dir()) / "checkpoints" / name
        reason = first_line(error)
        raise InputError(
            f"{name} cannot be loaded ({reason}): delete {cached} if it is there and try again, or {by_hand}"
        ) from error
    if isinstance(contents, dict):
        contents = contents.get("state_dict", contents)
    return CheckpointFile(Path(name), rename(tensors_of(Path(name), contents)))


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout: torch.hub sets none, and would wait for ever behind a firewall that drops packets."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
