"""The detector as pure functions: seeded, gradients where they should go, pictures of a batch that do not mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_models import BY_KIND, CANVAS_HW, batch_of, lively, prepared_of, small

from gfl.model import detector
from gfl.model.anchors import make_grid
from gfl.model.assign import ATSSConfig
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.head import HeadConfig
from gfl.model.postprocess import PredictConfig
from gfl.tensors.variables import flatten


def test_init_is_a_function_of_the_seed() -> None:
    cfg = small()
    first, again, other = (flatten(detector.init(cfg, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[path], again[path]) for path in first)
    drawn = [path for path, leaf in first.items() if leaf.ndim == 4]
    assert all(not torch.equal(first[path], other[path]) for path in drawn)


def test_adding_a_layer_changes_no_other_leafs_random_numbers() -> None:
    shallow, deep = flatten(detector.init(small())), flatten(detector.init(small(convs=3)))
    assert set(shallow) < set(deep)
    assert all(torch.equal(leaf, deep[path]) for path, leaf in shallow.items())


def test_convolutions_start_with_the_spread_of_their_scheme() -> None:
    flat = flatten(detector.init(DetectorConfig()))
    conv = flat["backbone.layer3.0.conv2.weight"]
    assert float(conv.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)  # Kaiming, fan out
    lateral = flat["neck.lateral_convs.2.conv.weight"]
    assert float(lateral.abs().max()) == pytest.approx((6 / (2048 + 256)) ** 0.5, rel=0.02)  # Xavier, uniform
    assert float(flat["bbox_head.reg_convs.1.conv.weight"].std()) == pytest.approx(0.01, rel=0.02)


SCALES = "bbox_head.scales."


@BY_KIND
def test_gradients_reach_every_trainable_leaf_and_no_frozen_one(cfg: DetectorConfig) -> None:
    variables = lively(cfg)
    flat = flatten(variables)
    floating = {path: leaf.requires_grad_() for path, leaf in flat.items() if leaf.is_floating_point()}
    trainable = {path for path in flat if not detector.is_frozen(path, cfg)}
    assert trainable <= set(floating)
    for path, leaf in floating.items():
        leaf.requires_grad_(path in trainable)
    prepared = prepared_of(variables, cfg)
    total, _ = detector.loss(prepared, batch_of(), make_grid(CANVAS_HW), cfg)
    total.backward()
    for path, leaf in flat.items():
        if path in trainable:
            assert leaf.grad is not None, path
            assert torch.isfinite(leaf.grad).all(), path
            # Without a quality nothing but positives reads the edges, and some levels have none.
            assert leaf.grad.abs().max() > 0 or (cfg.head.quality == "none" and path.startswith(SCALES)), path
        else:
            assert leaf.grad is None, path


def test_normalise_gives_the_pictures_in_units_of_the_mean_and_std_and_zero_in_the_padding() -> None:
    cfg = small()
    batch = batch_of()
    x = detector.normalise(batch.images, batch.image_sizes, cfg)
    assert x.dtype == torch.float32
    for channel in range(3):
        expected = (batch.images[1, channel, :50, :61].double() - cfg.mean[channel]) / cfg.std[channel]
        torch.testing.assert_close(x[1, channel, :50, :61].double(), expected, rtol=1e-6, atol=1e-6)
    assert not x[1, :, 50:].any()
    assert not x[1, :, :, 61:].any()


def test_normalise_reads_nothing_beyond_a_pictures_own_size() -> None:
    cfg = small()
    batch = batch_of()
    dirty = batch.images.clone()
    dirty[1, :, 50:], dirty[1, :, :, 61:] = 255, 17
    clean = detector.normalise(batch.images, batch.image_sizes, cfg)
    assert torch.equal(detector.normalise(dirty, batch.image_sizes, cfg), clean)


def test_a_blank_picture_normalises_to_zeros() -> None:
    blank = torch.full((1, 3, *CANVAS_HW), 9, dtype=torch.uint8)
    assert not detector.normalise(blank, torch.zeros((1, 2), dtype=torch.int32), small()).any()


@BY_KIND
def test_a_picture_in_a_batch_gives_what_it_gives_alone(cfg: DetectorConfig) -> None:
    variables = lively(cfg)
    prepared = prepared_of(variables, cfg)
    batch = batch_of(3)
    x = detector.normalise(batch.images, batch.image_sizes, cfg)
    with torch.no_grad():
        together = detector.forward(prepared, x, cfg)
        for i in range(3):
            alone = detector.forward(prepared, x[i : i + 1], cfg)
            # other blocking of the same float32 sums
            torch.testing.assert_close(alone.scores, together.scores[i : i + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.edge_logits, together.edge_logits[i : i + 1], rtol=1e-4, atol=1e-4)


def test_the_total_loss_is_the_sum_of_its_parts_and_a_function_of_its_inputs() -> None:
    cfg = small()
    variables = lively(cfg)
    prepared = prepared_of(variables, cfg)
    batch = batch_of()
    before = [part.clone() for part in batch]
    total, parts = detector.loss(prepared, batch, make_grid(CANVAS_HW), cfg)
    again, _ = detector.loss(prepared, batch, make_grid(CANVAS_HW), cfg)
    assert set(parts) == {"qfl", "dfl", "giou"}
    assert float(total) == pytest.approx(sum(float(part) for part in parts.values()))
    assert torch.equal(total, again)
    assert not any(part.requires_grad for part in parts.values())
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


def test_predict_of_a_picture_in_a_batch_is_that_of_the_picture_alone() -> None:
    cfg = small("gn", frozen_stages=-1)
    variables = lively(cfg)
    prepared = prepared_of(variables, cfg)
    batch, grid = batch_of(3), make_grid(CANVAS_HW)
    with torch.no_grad():
        together = detector.predict(prepared, batch.images, batch.image_sizes, grid, cfg)
        for i in range(3):
            alone = detector.predict(prepared, batch.images[i : i + 1], batch.image_sizes[i : i + 1], grid, cfg)
            assert together.num_detections[i] == alone.num_detections[0] > 0
            torch.testing.assert_close(together.scores[i], alone.scores[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.boxes_xyxy[i], alone.boxes_xyxy[0], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ResNetConfig(depth=51), "depth=51"),
        (lambda: ResNetConfig(norm="bn"), "norm='bn'"),
        (lambda: ResNetConfig(norm="gn", base_width=40), "base_width=40"),
        (lambda: ResNetConfig(frozen_stages=5), "frozen_stages=5"),
        (lambda: HeadConfig(topk=18), "topk=18"),
        (lambda: HeadConfig(channels=100), "channels=100"),
        (lambda: PredictConfig(candidates=99), "candidates=99"),
        (lambda: PredictConfig(rounds=0), "rounds=0"),
        (lambda: PredictConfig(score_threshold=-0.1), r"score_threshold=-0\.1"),
        (lambda: ATSSConfig(topk=0), "topk=0"),
        (lambda: ATSSConfig(topk=10), "topk=10"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_its_value(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
