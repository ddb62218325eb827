"""An export on pictures without a single detection: compared below its threshold, and told where even that is empty."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_export import flags_of, write_model
from tiny_onnx import DESCRIPTION

from export.compare import conclude
from export.errors import CheckError
from export.graph import trace
from export.parity import Parity
from export.request import describe_export, export_memory, read_request
from export.untried import lower_program
from export.untried_onnx import lower_threshold
from gfl.errors import InputError
from gfl.runtime.onnx_session import open_session
from gfl.tensors.variables import Variables

H, W = tiny.CANVAS
LIMITS = DESCRIPTION.thresholds  # of scores: 0.05


def graph_with(*constants: float) -> onnx.ModelProto:
    """A graph that compares its input with each of these numbers."""
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, (3,))]
    nodes = [helper.make_node("Greater", ["a", f"c{i}"], [f"o{i}"]) for i in range(len(constants))]
    outputs = [helper.make_tensor_value_info(f"o{i}", TensorProto.BOOL, (3,)) for i in range(len(constants))]
    tensors = [numpy_helper.from_array(np.array(value, np.float32), f"c{i}") for i, value in enumerate(constants)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_threshold_of_a_graph_is_lowered_and_no_other_number() -> None:
    model = graph_with(0.05, 0.6, 0.05)
    assert lower_threshold(model, LIMITS)
    values = np.array([0.0, 0.01, 0.7], np.float32)
    first, second, third = open_session(model.SerializeToString(), threads=1).run(None, {"a": values})
    assert np.asarray(first).tolist() == np.asarray(third).tolist() == [False, True, True]
    assert np.asarray(second).tolist() == [False, False, True]


@pytest.mark.parametrize("constants", [(0.6, 0.6, 0.6), (0.05,), ()])
def test_threshold_that_cannot_be_told_from_others_is_left(constants: tuple[float, ...]) -> None:
    assert not lower_threshold(graph_with(*constants), replace(LIMITS, score=0.6))


def test_threshold_of_a_program_is_lowered() -> None:
    def chosen(_: Variables, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return values > 0.05, values * (values > 0.05), values > 0.6

    program = trace(chosen, {}, [torch.zeros(3)])
    assert lower_program(program, LIMITS)
    first, second, third = program.module()(torch.tensor([0.0, 0.01, 0.7]))
    assert first.tolist() == [False, True, True]
    assert second.tolist() == pytest.approx([0.0, 0.01, 0.7])
    assert third.tolist() == [False, False, True]
    assert not lower_program(program, replace(LIMITS, score=0.6))


def test_what_could_not_be_compared_fails_unless_that_is_allowed(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "best.pt")
    for flags, passes in ((["--allow_unchecked"], True), ([], False)):
        request = read_request(flags_of(["--checkpoint", str(checkpoint), "--size", f"{H}x{W}", *flags]))
        about, path = describe_export(request, (H, W)), tmp_path / "best.onnx"
        outcome = Parity(["a"], untried=True)
        if passes:
            conclude(outcome, request, about, path)
        else:
            with pytest.raises(CheckError, match=r"boxes and NMS are unchecked; give --images .*--allow_unchecked"):
                conclude(outcome, request, about, path)
        report = json.loads(path.with_suffix(".parity.json").read_text())
        assert (report["passed"], report["unchecked"]) == (passes, True)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_told_in_one_sentence(error: Exception) -> None:
    with pytest.raises(InputError, match="too little memory to export 2 pictures of 64x96"), export_memory((H, W), 2):
        raise error
    with pytest.raises(RuntimeError, match="a bug"), export_memory((H, W), 2):
        raise RuntimeError("a bug")
