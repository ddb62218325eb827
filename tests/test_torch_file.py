"""Files of torch.save from strangers: nothing in them runs or fills the memory, and each refusal is of its cause."""

from __future__ import annotations

import argparse
import codecs
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gfl.engine import torch_file
from gfl.engine.checkpoints import read_state
from gfl.engine.torch_file import read_torch_file
from gfl.engine.weights import read_checkpoint
from gfl.errors import InputError

WEIGHT = torch.ones(3)


class Net(torch.nn.Module):
    """A model, pickled whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Bytes:
    """Unpickled, a gigabyte of zeros."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (10**9,)


class Hex:
    """Unpickled, a thousand bytes written in hexadecimal so many times, each of which doubles them."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return codecs.encode, (Hex(self.times - 1), "HEX codec") if self.times else ("a" * 1000, "latin1")


def saved(contents: object, path: Path, **how: object) -> Path:
    torch.save(contents, path, **how)
    return path


def with_pickle(contents: object, path: Path) -> Path:
    """A file whose pickle is that of `contents`."""
    saved({"a": WEIGHT}, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as plain, zipfile.ZipFile(path, "w") as changed:
        for name in plain.namelist():
            is_pickle = name.endswith("data.pkl")
            changed.writestr(name, pickle.dumps(contents, protocol=2) if is_pickle else plain.read(name))
    return path


def renamed(path: Path) -> Path:
    """The same, its pickle under a name in other letters, which PyTorch takes too."""
    with (
        zipfile.ZipFile(with_pickle({"a": Bytes()}, path.with_suffix(".bomb"))) as bomb,
        zipfile.ZipFile(path, "w") as changed,
    ):
        for name in bomb.namelist():
            changed.writestr(name.replace("data.pkl", "DATA.PKL"), bomb.read(name))
    return path


def torn(path: Path) -> Path:
    """An archive that PyTorch would read and zipfile does not, so that nothing is known of what is in it."""
    content = bytearray(with_pickle({"a": Bytes()}, path).read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 6] = 99  # the version that is needed to unpack it
    path.write_bytes(content)
    return path


def compressed(path: Path, factor: int) -> Path:
    """A file that unpacks to `factor` times its size."""
    saved({"a": torch.zeros(2**20)}, path.with_suffix(".plain"))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
        size = sum(member.compress_size for member in packed.infolist())
        packed.writestr(
            f"{name.split('/')[0]}/rest", bytes(range(256)) * (2**22 // factor // 256 - size // 256), zipfile.ZIP_STORED
        )
    return path


def script(path: Path) -> Path:
    torch.jit.trace(Net(), WEIGHT).save(str(path))
    return path


def tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(saved({"a": WEIGHT}, path.with_suffix(".plain")), "a")
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "namespace": (lambda path: saved({"args": argparse.Namespace(a=1)}, path), "holds objects of argparse.Namespace, "),
    "module": (lambda path: saved(Net(), path), r"holds objects of \S*test_torch_file\.Net"),
    "torch module": (lambda path: saved(torch.nn.ReLU(), path), "holds objects of torch.nn.modules.activation.ReLU"),
    "numpy": (lambda path: saved({"lr": np.float64(1)}, path), r"numpy.*scalar.*save its 'state_dict' and the class"),
    "legacy": (
        lambda path: saved({"a": Path("x")}, path, _use_new_zipfile_serialization=False),
        r"holds objects of pathlib\.\w+, ",
    ),
    "protocol": (lambda path: saved({"a": WEIGHT}, path, pickle_protocol=4), "pickle protocol 4, expected 2"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Path("x"), protocol=2)) and path, "objects of pathlib"),
    "tar": (tar, "tar archive of PyTorch before"),
    "script": (script, "TorchScript program"),
    "bytearray": (lambda path: with_pickle({"a": Bytes()}, path), "holds a bytearray"),
    "bytearray by another name": (renamed, "holds a bytearray"),
    "growing bytes": (lambda path: with_pickle({"a": Hex(3)}, path), "holds bytes in another encoding than latin1"),
    "unknown archive": (torn, "cannot be read: it is damaged"),
    "expanded": (lambda path: saved({"a": torch.zeros(1).expand(10**12)}, path), "tensors of 4000000000000 bytes"),
    "sparse": (lambda path: saved({"a": torch.eye(3).to_sparse()}, path), "a tensor that is torch.sparse_coo"),
    "meta": (lambda path: saved({"a": torch.empty(3, device="meta")}, path), "torch.strided on meta"),
    "text": (lambda path: path.write_text("<html>") and path, r"\(6 bytes\) cannot be read: it is damaged"),
}


# TorchScript is deprecated, and strangers' files are still written with it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("read", [read_checkpoint, read_state])
def test_what_is_no_plain_checkpoint_is_called_what_it_is(
    kind: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(InputError, match=said) as caught:
        read(make(tmp_path / "a.pt"))
    assert "\n" not in str(caught.value)


def test_plain_values_of_every_kind_come_back(tmp_path: Path) -> None:
    contents = {
        "ordered": OrderedDict(weight=torch.nn.Parameter(torch.ones(1))),
        "values": [1, 2.5, None, True, "text", b"bytes", {1, 2}, torch.Size([3]), torch.float16],
    }
    for legacy in (False, True):
        path = saved(contents, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        assert read_torch_file(path, "weights") == contents


def test_an_archive_is_refused_when_it_unpacks_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_file, "MOST_MORE", 0)
    assert read_torch_file(compressed(tmp_path / "a.pt", 5), "weights") is not None
    with pytest.raises(InputError, match=r"unpacks to \d+ bytes, expected at most \d+ for a file of its size"):
        read_torch_file(compressed(tmp_path / "b.pt", 50), "weights")


def test_a_short_file_of_many_references_is_walked_once(tmp_path: Path) -> None:
    tree: object = WEIGHT
    for _ in range(60):
        tree = [tree, tree]
    assert read_torch_file(saved({"a": tree}, tmp_path / "a.pt"), "weights") is not None
