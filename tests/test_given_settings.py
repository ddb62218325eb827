"""Weights that do not say what they are, opened with the settings and the class names that a person gives."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import GIN_FILE
from tiny_export import BINDINGS, CATEGORY_IDS, NAMES, write_model

from gfl import load
from gfl.data.classes import read_class_names
from gfl.engine.weights import read_checkpoint
from gfl.errors import InputError
from gfl.runtime.on_torch import pt_file
from infer import run as infer

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model as this project's .pt, as bare weights, and as mmdetection's .pth that names its classes."""
    folder = tmp_path_factory.mktemp("weights")
    state = {
        name: tensor.contiguous() for name, tensor in read_checkpoint(write_model(folder / "best.pt")).state.items()
    }
    torch.save(state, folder / "bare.pth")
    torch.save({"state_dict": state, "meta": {"CLASSES": NAMES}}, folder / "named.pth")
    save_file(state, folder / "bare.safetensors")
    categories = [{"id": key, "name": name} for key, name in zip(CATEGORY_IDS, NAMES, strict=True)]
    (folder / "val.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n\n")
    return {file.name: file for file in folder.iterdir()}


@pytest.mark.parametrize("weights", ["bare.pth", "bare.safetensors"])
@pytest.mark.parametrize("given", ["list", "names.txt", "val.json"])
def test_weights_with_settings_and_names_give_what_the_checkpoint_gives(
    weights: str, given: str, files: dict[str, Path]
) -> None:
    names = NAMES if given == "list" else files[given]
    detect = load(files[weights], gin_file=GIN_FILE, gin_bindings=BINDINGS, names=names)
    found, expected = detect(PICTURE), load(files["best.pt"])(PICTURE)
    assert len(found)
    assert found.names == expected.names
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    if given == "val.json":
        assert found.category_ids == expected.category_ids


def test_weights_that_name_their_classes_need_no_names(files: dict[str, Path]) -> None:
    settings = {"gin_file": [GIN_FILE], "gin_bindings": BINDINGS}
    assert load(files["named.pth"], **settings).names == NAMES  # type: ignore[arg-type]  # of several types
    with pytest.raises(InputError, match="which names its own: circle, square"):
        load(files["named.pth"], names=NAMES[::-1], **settings)  # type: ignore[arg-type]


def test_what_is_missing_is_named(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="give --gin_file with the model's settings"):
        load(files["bare.pth"], names=NAMES)
    with pytest.raises(InputError, match=r"does not name its classes; give .*--names"):
        load(files["bare.pth"], gin_file=GIN_FILE, gin_bindings=BINDINGS)
    with pytest.raises(InputError, match=r"got 3 class names for .*bare\.pth, whose class layer has 5 rows"):
        load(files["bare.pth"], gin_file=GIN_FILE, gin_bindings=BINDINGS, names=NAMES[:3])


@pytest.mark.parametrize(
    ("names", "part"),
    [([], "has no name"), (["a", ""], "'' as name 2"), ([1], "1 as name 1"), ("none.txt", "cannot be read")],
)
def test_names_that_are_none_are_told(names: object, part: str) -> None:
    with pytest.raises(InputError, match=part):
        read_class_names(names)  # type: ignore[arg-type]  # wrong on purpose


def test_infer_takes_the_settings_and_the_names(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), PICTURE)
    flags = ["--model", str(files["bare.pth"]), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    given = ["--gin_file", str(GIN_FILE), "--gin_bindings", *BINDINGS, "--names", str(files["val.json"])]
    assert infer.main(flags) == 2
    assert infer.main([*flags, *given]) == 0
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {row["category_id"] for row in rows} <= set(CATEGORY_IDS)


def test_too_little_memory_ends_in_one_sentence(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(pt_file.detector, "predict", no_memory)
    with pytest.raises(InputError, match=r"does not suffice to run the model on 1 picture of .*; lower the batch"):
        load(files["best.pt"])(PICTURE)


def test_a_provider_of_onnx_files_alone_is_refused_for_weights(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"openvino for a model that PyTorch runs.*; export the model"):
        load(files["best.pt"], provider="openvino")


@pytest.mark.parametrize(("name", "value"), [("gin_file", 3), ("gin_bindings", [3]), ("gin_bindings", {"LR": 1})])
def test_settings_that_are_no_text_are_told(name: str, value: object, files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=f"got {name}="):
        load(files["best.pt"], **{name: value})  # type: ignore[arg-type]  # wrong on purpose


def test_one_binding_may_be_a_text_alone(files: dict[str, Path]) -> None:
    detect = load(files["best.pt"], gin_bindings="SHORT_SIDE = 32")
    assert detect.model.description.short_side == 32
