"""What the tests of exported files share: a tiny model with lively scores, the program, and graphs of one operator."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import golden_cases
import numpy as np
import onnx
import pytest
import tiny
from made_once import made_once
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export import command, write_onnx
from export import onnx as program
from export.graph import Exported
from export.translate import Translation, translate
from gfl.config import read_run
from gfl.engine.checkpoints import write_checkpoint
from gfl.model import detector
from gfl.model.prepare import Prepared
from gfl.runtime.description import Arrays, Description
from gfl.tensors.variables import flatten

H, W = tiny.CANVAS
NAMES = ("circle", "square", "triangle", "star", "ring")  # those of the generated data set
CATEGORY_IDS = (1, 2, 3, 5, 8)
Row = tuple[float, int, tuple[float, float, float, float]]  # a detection: score, label, box in canvas px
BINDINGS = (*tiny.BINDINGS, "postprocess.PredictConfig.rounds = 4")  # fewer, for a smaller graph

SMALL_BINDINGS = (
    "resnet.ResNetConfig.depth = 18",
    "resnet.ResNetConfig.base_width = 32",
    "resnet.ResNetConfig.norm = 'gn'",
    "resnet.ResNetConfig.gn_groups = 16",
    "resnet.ResNetConfig.frozen_stages = -1",
    "fpn.FPNConfig.channels = 64",
    "head.HeadConfig.channels = 64",
    "head.HeadConfig.convs = 2",
    "head.HeadConfig.gn_groups = 16",
    f"SHORT_SIDE = {golden_cases.SMALL_SHORT_SIDE}",
    f"LONG_SIDE = {golden_cases.SMALL_LONG_SIDE}",
)


def write_model(
    path: Path,
    bindings: Sequence[str] = BINDINGS,
    canvases: Sequence[tuple[int, int]] = ((H, W), (W, H)),
    *,
    surer: float = 0.0,
    score_thresholds: Sequence[float] | None = None,
) -> Path:
    """A checkpoint of the tiny model with the goldens' weights, whose scores spread widely.

    surer: is added to every class logit.
    """
    parsed = read_run([tiny.GIN_FILE], bindings)
    cfg = replace(parsed.run.detector, num_classes=len(NAMES))
    variables = flatten(golden_cases.filled(detector.init(cfg)))
    variables["bbox_head.gfl_cls.bias"] += surer
    tree: dict[str, object] = {
        "variables": variables,
        "config": parsed.config_text,
        "names": list(NAMES),
        "category_ids": list(CATEGORY_IDS),
        "canvases": [list(canvas) for canvas in canvases],
        "score_thresholds": score_thresholds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, tree)
    return path


def trained_flags(test_data: Path) -> list[str]:
    """Flags that name the trained blood cell model under GFL_TEST_DATA, with the settings that its .pth lacks."""
    weights = ["--checkpoint", str(test_data / "bccd_r18" / "model.pth")]
    return [*weights, "--gin_file", "base.gin", "--gin_bindings", *SMALL_BINDINGS]


class Export(NamedTuple):
    """A written file, what was printed, and what it was translated from."""

    path: Path
    said: str
    translation: Translation

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.path)

    @property
    def report(self) -> dict[str, object]:
        content: dict[str, object] = json.loads(self.path.with_suffix(".parity.json").read_text())
        return content


def export_translated(checkpoint: Path, path: Path, *flags: object) -> Export:
    """Export the tiny model at its canvas, and keep what the file was translated from."""
    seen: list[Translation] = []

    def remember(graph: Exported, prepared: Prepared, description: Description) -> Translation:
        seen.append(translate(graph, prepared, description))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_onnx, "translate", remember)
        said = export("--checkpoint", checkpoint, "--size", f"{H}x{W}", "--output", path, *flags)
    return Export(path, said, seen[0])


def export(*arguments: object) -> str:
    """Run the program, which must end well; what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert program.main([str(argument) for argument in arguments]) == 0
    return said.getvalue()


def lying_exports(factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model as one .onnx, for a picture at a time on its lying canvas."""
    return made_once(factory, "lying_exports", lambda folder: _export_folder(folder, [(H, W)], 1))


def paired_exports(factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model for two pictures at a time, in a lying and a standing canvas."""
    return made_once(factory, "paired_exports", lambda folder: _export_folder(folder, [(H, W), (W, H)], 2))


def _export_folder(folder: Path, canvases: Sequence[tuple[int, int]], batch: int) -> None:
    checkpoint = write_model(folder.with_name(f"{folder.stem}_run") / "best.pt", canvases=canvases)
    flags = ["--size", *(f"{height}x{width}" for height, width in canvases), "--batch", batch, "--skip_parity"]
    export("--checkpoint", checkpoint, "--output", folder, *flags)


def damaged(translation: Translation, weight: str, filters: slice = slice(1)) -> Translation:
    """The same graph with some filters of one weight, by default the first, turned around."""
    model = onnx.ModelProto()
    model.CopyFrom(translation.model)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values[filters] *= -2
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return Translation(model, translation.program)


def dtypes_of(model: onnx.ModelProto) -> dict[str, str]:
    """dtype of every value of a graph, by name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return {name: TensorProto.DataType.Name(dtype) for name, dtype in found.items()}


def operators_of(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def detection_arrays(*rows: Row, slots: int = 5, complete: int = 1) -> Arrays:
    """The outputs of a file that finds these on one picture, best first; empty slots are zeros."""
    arrays: dict[str, NDArray[np.generic]] = {
        "boxes": np.zeros((1, slots, 4), np.float64),
        "scores": np.zeros((1, slots), np.float64),
        "labels": np.full((1, slots), -1, np.int32),
        "count": np.array([len(rows)], np.int32),
        "edge_std": np.zeros((1, slots, 4), np.float64),
        "complete": np.array([complete], np.int32),
    }
    for slot, (score, label, box) in enumerate(rows):
        arrays["scores"][0, slot], arrays["labels"][0, slot], arrays["boxes"][0, slot] = score, label, box
    return arrays


def evaluate_flags(data: Path, split: str = "val") -> list[str]:
    """Flags of gfl.evaluate: the pictures of a split of a data set in COCO's layout."""
    images = data / f"{split}2017"
    return ["--annotations", str(tiny.annotations(data, split)), "--images", str(images), "--workers", "0"]


def assert_same_detections(one: Path, other: Path) -> None:
    """The evaluations that wrote these folders found the same, but for the rounding of another runtime."""
    sides = []
    for folder in (one, other):
        rows = json.loads((folder / "val_detections.json").read_text())
        sides.append(sorted(rows, key=lambda row: (row["image_id"], -row["score"])))
    assert len(sides[0]) > 20
    for key, tolerance in (("image_id", 0.0), ("category_id", 0.0), ("score", 1e-5), ("bbox", 5e-3)):
        left, right = (np.array([row[key] for row in rows], np.float64) for rows in sides)
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


def flags_of(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed flags of `python -m export.onnx`."""
    return command.parser("", None, ".onnx", ("fp32", "fp16", "int8")).parse_args(arguments)


def tiny_graph(
    operator: str, dtype: int = TensorProto.FLOAT, shape: Sequence[int | str] = (2, 3), opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """One operator of one or two inputs."""
    names = ["a", "b"] if operator in ("Add", "Mod") else ["a"]
    inputs = [helper.make_tensor_value_info(name, dtype, shape) for name in names]
    made = helper.make_node(operator, names, ["c"])
    if operator == "NonZero":
        output = helper.make_tensor_value_info("c", TensorProto.INT64, (2, "found"))
    else:
        output = helper.make_tensor_value_info("c", dtype, shape)
    graph = helper.make_graph([made], "graph", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
