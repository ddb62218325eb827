"""The other models of the family, small: what holds for the R50 holds for them."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from audit import Auditor
from cann_deform import on_npu  # noqa: F401  # a fixture
from small_models import CANVAS_HW, KINDS, batch_of, lively, prepared_of
from torch._subclasses.fake_tensor import FakeTensorMode

from export.check import violations
from export.graph import graph_of, trace
from export.translate import to_onnx
from gfl.config import read_run
from gfl.engine.state import step
from gfl.operators.fake_step import RATE, fake_batch, fake_state
from gfl.runtime.description import INPUT_NAMES

STEP_OPS = {  # of the run files' steps, those that compute: at most a tenth more than there are; R50's takes 1,188
    "r101_ms2x.gin": 1800,
    "r101_dcn_ms2x.gin": 2100,
    "x101_dcn_ms2x.gin": 2050,
    "res2net101_dcn_ms2x.gin": 3300,
    "gfl_v1_r50.gin": 1280,
}
QUICK = ("r101_dcn_ms2x.gin", "gfl_v1_r50.gin")
SLOW = ("x50", "r50 deformable", "r2n50 deformable", "gfl v1")


@pytest.mark.parametrize(
    "kind", ["r50 deformable with masks", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]
)
def test_the_exported_graph_has_shared_operators_alone_and_gives_what_pytorch_gives(kind: str) -> None:
    cfg = KINDS[kind]
    prepared = prepared_of(lively(cfg), cfg)
    graph = graph_of("decoded", CANVAS_HW, cfg)
    batch = batch_of()
    inputs = (batch.images, batch.image_sizes)
    model = to_onnx(trace(graph.function, prepared.tree, inputs), INPUT_NAMES, graph.output_names).model
    assert list(violations(model)) == []
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: x.numpy() for name, x in zip(INPUT_NAMES, inputs, strict=True)})
    with torch.no_grad():
        expected = graph.function(prepared.tree, *inputs)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("on_npu")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STEP_OPS]
)
def test_a_step_is_one_static_graph_of_operators_that_an_npu_has(name: str) -> None:
    run = read_run([name]).run
    canvases = ((800, 1344), (1344, 800))
    traces = []
    with FakeTensorMode():
        state = fake_state(run, canvases)
        for canvas, size in zip(canvases, ((1, 8), (2, 40)), strict=True):
            with Auditor() as audit:
                step(state, [fake_batch(canvas, *size)], RATE, run.optim)
            assert audit.violations == []
            traces.append([(op.name, op.dtypes) for op in audit.ops])
            assert sum(op.computes for op in audit.ops) <= STEP_OPS[name]
    assert traces[0] == traces[1]
    assert any("npu_deformable_conv2dbk" in op for op, _ in traces[0]) == ("dcn" in name)
