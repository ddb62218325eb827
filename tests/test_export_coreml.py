"""Core ML's packages, as far as a machine that is no Mac can look at them."""

from __future__ import annotations

import json
from pathlib import Path

import mil
import numpy as np
import pytest
import torch
from tiny_export import H, W, write_model
from torch import Tensor

from export import to
from export import torch as export_torch
from export.formats.coreml import changed
from gfl import load
from gfl.errors import InputError
from gfl.runtime.on_torch.pt2_file import load_program


def program(folder: Path, form: str, batch: int = 1) -> Path:
    """The tiny model as a .pt2."""
    checkpoint, path = write_model(folder / "run" / "best.pt", surer=0.5), folder / "best.pt2"
    flags = ["--checkpoint", checkpoint, "--size", f"{H}x{W}", "--output", path, "--outputs", form, "--batch", batch]
    assert export_torch.main([*map(str, flags), "--skip_parity"]) == 0
    return path


def inputs(batch: int = 1) -> tuple[Tensor, Tensor]:
    """Noise, the first picture smaller than its canvas."""
    images = torch.randint(0, 256, (batch, 3, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[H - 9, W - 30], [H, W]][:batch], dtype=torch.int32)
    return images, sizes


def test_the_program_that_is_converted_gives_the_same_bits(tmp_path: Path) -> None:
    original = load_program(program(tmp_path, "detections"))[0]
    edited = changed(original)
    images, sizes = inputs()
    assert edited.graph_signature.user_inputs == ("images", "image_sizes")
    expected, found = original.module()(images, sizes), edited.module()(images.float(), sizes)
    assert len(expected) == len(found)
    for left, right in zip(expected, found, strict=True):
        assert torch.equal(left, right)
    assert int((expected[1] > 0.05).sum()) > 10


@pytest.mark.parametrize("name", ["best.mlpackage", "folder"])
def test_a_package_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder" / "best.mlpackage" / "Data").mkdir(parents=True)
    path = tmp_path / "folder" if name == "folder" else tmp_path / "folder" / name
    with pytest.raises(InputError, match="is for Core ML on a Mac"):
        load(path)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "batch"), [("detections", 1), ("detections", 2), ("decoded", 1)])
def test_a_package_says_what_it_is_and_its_operators_compute_the_same(tmp_path: Path, form: str, batch: int) -> None:
    coremltools = pytest.importorskip("coremltools")
    source = program(tmp_path, form, batch)
    words = ["--format", "coreml", "--model", str(source), "--output", str(tmp_path / "out"), "--samples", "2"]
    assert to.main(words) == 0
    package = tmp_path / "out" / "best.mlpackage"
    report = json.loads((tmp_path / "out" / "best.mlpackage.parity.json").read_text())
    assert report["passed"] is None
    assert report["mb"] == pytest.approx(sum(file.stat().st_size for file in package.rglob("*.*")) / 1e6, rel=0.01)

    original, description, names = load_program(source)
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    about = model.get_spec().description
    kinds = {getattr(coremltools.proto.FeatureTypes_pb2.ArrayFeatureType, name): name for name in ("FLOAT32", "INT32")}
    surface = {
        each.name: (kinds[each.type.multiArrayType.dataType], tuple(each.type.multiArrayType.shape))
        for each in (*about.input, *about.output)
    }
    images, sizes = inputs(batch)
    expected = dict(zip(names, original.module()(images, sizes), strict=True))
    described = {"images": images.float(), "image_sizes": sizes, **expected}
    assert surface == {
        name: (str(value.dtype).removeprefix("torch.").upper(), tuple(value.shape)) for name, value in described.items()
    }
    metadata = description.to_metadata()
    assert {name: model.user_defined_metadata[name] for name in metadata} == metadata
    weights = sum(value.numel() for value in original.state_dict.values())
    assert (package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size > 4 * weights  # float32

    found = mil.run_package(package, {"images": images.float(), "image_sizes": sizes})
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        # Its group norm is written out: other roundings, as of another runtime.
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 if name == "scores" else 1e-3, err_msg=name)
