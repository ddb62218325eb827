"""The GFLV2 head: its variables, the order of its outputs, and the quality that it predicts."""

from __future__ import annotations

import golden_cases
import pytest
import reference
import torch
from small_models import CANVAS_HW, batch_of, prepared_of, read_by, small

from gfl.model import detector, head
from gfl.model.anchors import make_grid
from gfl.model.head import HeadConfig
from gfl.tensors.variables import child, flatten


@pytest.mark.parametrize("convs", [0, 1, 4])
def test_the_head_reads_what_its_init_makes_and_no_more(convs: int) -> None:
    cfg = HeadConfig(channels=8, convs=convs, gn_groups=4, quality_channels=8)
    variables = head.init(0, 3, 8, cfg)
    pyramid = tuple(torch.zeros((1, 8, size, size)) for size in (8, 4, 2, 1, 1))
    assert read_by(lambda tree: head.apply(tree, pyramid, cfg), variables) == set(flatten(variables))


def test_the_head_starts_at_the_prior() -> None:
    cfg = small()
    variables = detector.init(cfg)
    bias = flatten(variables)["bbox_head.gfl_cls.bias"]
    torch.testing.assert_close(bias.sigmoid(), torch.full((4,), 0.01))
    prepared = prepared_of(variables, cfg)
    batch = batch_of()
    with torch.no_grad():
        outputs = detector.forward(prepared, detector.normalise(batch.images, batch.image_sizes, cfg), cfg)
    assert 0.001 < float(outputs.scores.min()) <= float(outputs.scores.max()) < 0.02  # prior x a quality near 1/2


def test_the_background_channel_is_one_more_class_channel() -> None:
    with_background = head.init(0, 80, 256, HeadConfig())
    without = head.init(0, 80, 256, HeadConfig(background_channel=False))
    assert [flatten(tree)["gfl_cls.weight"].shape[0] for tree in (with_background, without)] == [81, 80]


def test_outputs_are_ordered_level_by_level_and_row_by_row() -> None:
    """The head is shared: on a pyramid that is zero but for one cell of P4, outputs change around that cell alone."""
    cfg = HeadConfig(channels=8, convs=0, gn_groups=4, quality_channels=8)
    variables = golden_cases.filled(head.init(0, 3, 8, cfg))
    shapes = make_grid(CANVAS_HW).shapes_hw
    pyramid = [torch.zeros((1, 8, *shape)) for shape in shapes]
    before = head.apply(variables, tuple(pyramid), cfg)
    pyramid[1][0, :, 2, 4] = 3.0
    after = head.apply(variables, tuple(pyramid), cfg)
    changed = (before.scores != after.scores).any(dim=2)[0].nonzero().flatten().tolist()
    start, columns = shapes[0][0] * shapes[0][1], shapes[1][1]
    expected = [start + row * columns + column for row in (1, 2, 3) for column in (3, 4, 5) if row < shapes[1][0]]
    assert changed == expected


def test_the_quality_of_an_anchor_agrees_with_the_loops() -> None:
    cfg = HeadConfig(channels=8, gn_groups=4, quality_channels=8)
    variables = child(golden_cases.filled({"bbox_head": head.init(0, 3, 8, cfg)}), "bbox_head.reg_conf")
    edges = torch.randn((1, 20, 4, 17), generator=torch.Generator().manual_seed(0)) * 3
    got = head.dgqp(variables, edges, cfg)
    flat = {
        path: leaf.double().flatten(1).numpy() if leaf.ndim > 1 else leaf.double().numpy()
        for path, leaf in flatten(variables).items()
    }
    for anchor in range(20):
        expected = reference.quality(
            edges[0, anchor].double().numpy(), (flat["0.weight"], flat["0.bias"]), (flat["2.weight"], flat["2.bias"])
        )
        assert float(got[0, anchor, 0]) == pytest.approx(expected, rel=1e-5)


def test_the_quality_sends_gradients_into_the_distribution() -> None:
    cfg = HeadConfig(channels=8, gn_groups=4, quality_channels=8)
    variables = child(golden_cases.filled({"bbox_head": head.init(0, 3, 8, cfg)}), "bbox_head.reg_conf")
    edges = torch.randn((1, 5, 4, 17), generator=torch.Generator().manual_seed(0)).requires_grad_()
    head.dgqp(variables, edges, cfg).sum().backward()
    assert edges.grad is not None
    assert (edges.grad.abs().amax(dim=3) > 0).all()
