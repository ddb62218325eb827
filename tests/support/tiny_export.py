"""What the tests of exported files share: a tiny model with lively scores, the program, and graphs of one operator."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import golden_cases
import onnx
import pytest
import tiny
from onnx import TensorProto, helper

from export import command, translate
from export import onnx as program
from export.translate import Translation, to_onnx
from gfl.config import read_run
from gfl.engine.checkpoints import write_checkpoint
from gfl.model import detector
from gfl.tensors.variables import flatten

H, W = tiny.CANVAS
NAMES = ("circle", "square", "triangle", "star", "ring")  # those of the generated data set
CATEGORY_IDS = (1, 2, 3, 5, 8)
BINDINGS = (*tiny.BINDINGS, "postprocess.PredictConfig.rounds = 4")  # fewer, for a smaller graph

# The settings of the trained blood cell model under GFL_TEST_DATA, whose .pth has none.
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
    path: Path, bindings: Sequence[str] = BINDINGS, canvases: Sequence[tuple[int, int]] = ((H, W), (W, H))
) -> Path:
    """A checkpoint of the tiny model with the goldens' weights, whose scores spread widely."""
    parsed = read_run([tiny.GIN_FILE], bindings)
    cfg = replace(parsed.run.detector, num_classes=len(NAMES))
    tree: dict[str, object] = {
        "variables": flatten(golden_cases.filled(detector.init(cfg))),
        "config": parsed.config_text,
        "names": list(NAMES),
        "category_ids": list(CATEGORY_IDS),
        "canvases": [list(canvas) for canvas in canvases],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, tree)
    return path


def export(*arguments: object) -> str:
    """Run the program, which must end well; what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert program.main([str(argument) for argument in arguments]) == 0
    return said.getvalue()


@contextlib.contextmanager
def translations() -> Iterator[list[Translation]]:
    """What is translated within it, in order."""
    seen: list[Translation] = []

    def remember(*arguments: object) -> Translation:
        seen.append(to_onnx(*arguments))  # type: ignore[arg-type]  # handed on as they are
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translate, "to_onnx", remember)
        yield seen


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
