"""The other models of the family, small: what holds for the R50 holds for them."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from small_models import CANVAS_HW, KINDS, batch_of, lively, prepared_of

from export.check import violations
from export.graph import graph_of, trace
from export.translate import to_onnx
from gfl.runtime.description import INPUT_NAMES

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
