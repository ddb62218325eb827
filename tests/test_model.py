"""The detector as pure functions: every leaf is used, gradients go where they should, batches do not mix."""

from __future__ import annotations

from collections.abc import Callable

import golden_cases
import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from gfl.model import detector, fpn, head
from gfl.model.anchors import cells_inside, make_grid, padded_sizes
from gfl.model.backbones import resnet
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.postprocess import PredictConfig
from gfl.model.structures import Batch
from gfl.tensors.precision import BF16, FP32, O1, Policy
from gfl.tensors.variables import Variables, child, flatten, unflatten

CANVAS_HW = (64, 96)


def small(norm: str = "frozen_bn", depth: int = 18, frozen_stages: int = 1, convs: int = 2) -> DetectorConfig:
    """A detector of a few thousand weights."""
    return DetectorConfig(
        num_classes=3,
        backbone=ResNetConfig(depth=depth, base_width=8, norm=norm, gn_groups=4, frozen_stages=frozen_stages),
        neck=FPNConfig(16),
        head=HeadConfig(channels=16, convs=convs, gn_groups=4, quality_channels=8),
    )


KINDS = {
    "r18 frozen_bn": small(),
    "r18 gn, all trained": small("gn", frozen_stages=-1),
    "r18 gn, stem frozen": small("gn", frozen_stages=0),
    "r34 frozen_bn": small(depth=34, frozen_stages=2),
    "r50 frozen_bn": small(depth=50),
    "r50 frozen_bn, all trained": small(depth=50, frozen_stages=-1),
    "r50 gn, all frozen": small("gn", depth=50, frozen_stages=4),
    "head without towers": small(convs=0),
}
BY_KIND = pytest.mark.parametrize("cfg", KINDS.values(), ids=KINDS.keys())


def batch_of(count: int = 2, seed: int = 0) -> Batch:
    """Pictures of noise, the last smaller than the canvas, each with boxes."""
    rng = np.random.default_rng(seed)
    sizes = [CANVAS_HW] * (count - 1) + [(50, 61)]
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    boxes = [
        np.array([[5.3, 6.1, 40.7, 45.9], [20.1, 10.3, 60.2, 48.4]], np.float32)[: 1 + i % 2] for i in range(count)
    ]
    labels = [np.arange(len(b), dtype=np.int32) for b in boxes]
    return golden_cases.stack(pictures, boxes, labels, canvas_hw=CANVAS_HW, slots=3)


def lively(cfg: DetectorConfig) -> Variables:
    """Variables of which none is zero, so that nothing hides behind a branch that starts at zero."""
    return golden_cases.filled(detector.init(cfg))


class ReadTree(dict):  # type: ignore[type-arg]
    """A tree of variables that writes down which leaves are read."""

    def __init__(self, tree: Variables, read: set[str], prefix: str = "") -> None:
        super().__init__()
        self.read, self.prefix = read, prefix
        for name, node in tree.items():
            self[name] = node if isinstance(node, Tensor) else ReadTree(node, read, f"{prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor | Variables:
        node: Tensor | Variables = super().__getitem__(name)
        if isinstance(node, Tensor):
            self.read.add(self.prefix + name)
        return node


# ---- init and apply ----


def read_by(apply: Callable[[Variables], object], variables: Variables) -> set[str]:
    read: set[str] = set()
    with torch.no_grad():
        apply(ReadTree(variables, read))
    return read


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_the_backbone_reads_what_its_init_makes_and_no_more(depth: int) -> None:
    cfg = ResNetConfig(depth=depth, base_width=8, norm="gn", gn_groups=4)
    variables = resnet.init(0, cfg)
    x = torch.zeros((1, 3, 32, 32))
    assert read_by(lambda tree: resnet.apply(tree, x, cfg), variables) == set(flatten(variables))


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_the_folded_backbone_reads_convolutions_alone_and_all_of_them(depth: int) -> None:
    cfg = DetectorConfig(backbone=ResNetConfig(depth=depth, base_width=8))
    variables = detector.init(cfg)
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    x = torch.zeros((1, 3, 32, 32))
    read = read_by(lambda tree: resnet.apply(tree, x, cfg.backbone), child(prepared.tree, "backbone"))
    convolutions = [p for p, leaf in flatten(child(variables, "backbone")).items() if leaf.ndim == 4]
    biases = [path.removesuffix("weight") + "bias" for path in convolutions]
    assert read == {*convolutions, *biases}


def test_the_pyramid_reads_what_its_init_makes_and_no_more() -> None:
    cfg = FPNConfig(8)
    variables = fpn.init(0, (4, 6, 8), cfg)
    features = tuple(torch.zeros((1, channels, size, size)) for channels, size in ((4, 8), (6, 4), (8, 2)))
    assert read_by(lambda tree: fpn.apply(tree, features), variables) == set(flatten(variables))


@pytest.mark.parametrize("convs", [0, 1, 4])
def test_the_head_reads_what_its_init_makes_and_no_more(convs: int) -> None:
    cfg = HeadConfig(channels=8, convs=convs, gn_groups=4, quality_channels=8)
    variables = head.init(0, 3, 8, cfg)
    pyramid = tuple(torch.zeros((1, 8, size, size)) for size in (8, 4, 2, 1, 1))
    assert read_by(lambda tree: head.apply(tree, pyramid, cfg), variables) == set(flatten(variables))


@pytest.mark.parametrize("kind", ["r18 frozen_bn", "r50 frozen_bn, all trained"])
def test_every_norm_leaf_of_the_backbone_changes_the_features(kind: str) -> None:
    """Statistics and affine parts reach the outputs through `freeze` and `prepare`."""
    cfg = KINDS[kind]
    flat = flatten(lively(cfg))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))

    def features(changed: dict[str, Tensor]) -> tuple[Tensor, ...]:
        variables = unflatten(changed)
        prepared = detector.prepare(variables, detector.freeze(variables, cfg))
        return resnet.apply(child(prepared.tree, "backbone"), x, cfg.backbone)

    with torch.no_grad():
        before = features(flat)
        for path, leaf in flat.items():
            if path.startswith("backbone.") and leaf.ndim == 1:
                after = features({**flat, path: leaf + 0.5})
                assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), path


@BY_KIND
def test_gradients_reach_every_trainable_leaf_and_no_frozen_one(cfg: DetectorConfig) -> None:
    variables = lively(cfg)
    flat = flatten(variables)
    floating = {path: leaf.requires_grad_() for path, leaf in flat.items() if leaf.is_floating_point()}
    trainable = {path for path in flat if not detector.is_frozen(path, cfg)}
    assert trainable <= set(floating)
    for path, leaf in floating.items():
        leaf.requires_grad_(path in trainable)
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    total, _ = detector.loss(prepared, batch_of(), make_grid(CANVAS_HW), cfg)
    total.backward()
    for path, leaf in flat.items():
        if path in trainable:
            assert leaf.grad is not None, path
            assert torch.isfinite(leaf.grad).all(), path
            assert leaf.grad.abs().max() > 0, path
        else:
            assert leaf.grad is None, path


def test_what_is_frozen_is_what_the_recipe_says() -> None:
    cfg = small(depth=50)
    frozen = {path for path in flatten(detector.init(cfg)) if detector.is_frozen(path, cfg)}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert {p for p in frozen if not p.endswith(statistics)} == {
        p
        for p in flatten(detector.init(cfg))
        if p.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")) and not p.endswith(statistics)
    }
    assert not any(path.startswith(("neck.", "bbox_head.")) for path in frozen)


# ---- init ----


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


@pytest.mark.parametrize("norm", ["frozen_bn", "gn"])
@pytest.mark.parametrize("depth", [18, 50])
def test_residual_branches_start_at_zero(norm: str, depth: int) -> None:
    """So a block starts as its shortcut: the last norm's scale is 0."""
    flat = flatten(resnet.init(0, small(norm, depth).backbone))
    last = ("3" if depth >= 50 else "2") + ".weight"
    norms = [path for path, leaf in flat.items() if path.startswith("layer") and leaf.ndim == 1 and path.endswith(last)]
    assert len(norms) == sum(resnet.BLOCKS[depth])
    assert all(not flat[path].any() for path in norms)


def test_the_head_starts_at_the_prior() -> None:
    cfg = small()
    variables = detector.init(cfg)
    bias = flatten(variables)["bbox_head.gfl_cls.bias"]
    torch.testing.assert_close(bias.sigmoid(), torch.full((4,), 0.01))
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    batch = batch_of()
    with torch.no_grad():
        outputs = detector.forward(prepared, detector.normalise(batch.images, batch.image_sizes, cfg), cfg)
    assert 0.001 < float(outputs.scores.min()) <= float(outputs.scores.max()) < 0.02  # prior x a quality near 1/2


def test_convolutions_start_with_the_spread_of_their_scheme() -> None:
    flat = flatten(detector.init(DetectorConfig()))
    conv = flat["backbone.layer3.0.conv2.weight"]
    assert float(conv.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)  # Kaiming, fan out
    lateral = flat["neck.lateral_convs.2.conv.weight"]
    assert float(lateral.abs().max()) == pytest.approx((6 / (2048 + 256)) ** 0.5, rel=0.02)  # Xavier, uniform
    assert float(flat["bbox_head.reg_convs.1.conv.weight"].std()) == pytest.approx(0.01, rel=0.02)


def test_the_background_channel_is_one_more_class_channel() -> None:
    with_background = head.init(0, 80, 256, HeadConfig())
    without = head.init(0, 80, 256, HeadConfig(background_channel=False))
    assert [flatten(tree)["gfl_cls.weight"].shape[0] for tree in (with_background, without)] == [81, 80]


# ---- prepare ----


@BY_KIND
def test_folding_equals_convolution_and_norm_apart(cfg: DetectorConfig) -> None:
    """In float64 against batch-norm as PyTorch computes it."""
    if cfg.backbone.norm != "frozen_bn":
        return
    variables = lively(cfg)
    flat = flatten(child(variables, "backbone"))
    folded = flatten(child(detector.prepare(variables, detector.freeze(variables, cfg)).tree, "backbone"))
    for conv, norm in resnet.conv_norm_pairs(cfg.backbone):
        weight = flat[f"{conv}.weight"].double()
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, weight.shape[1], 9, 9)))
        parts = (flat[f"{norm}.{name}"].double() for name in ("running_mean", "running_var", "weight", "bias"))
        expected = torch.nn.functional.batch_norm(torch.nn.functional.conv2d(x, weight), *parts, eps=1e-5)
        got = torch.nn.functional.conv2d(x, folded[f"{conv}.weight"].double(), folded[f"{conv}.bias"].double())
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)  # float32 weights


@pytest.mark.parametrize("policy", [O1, BF16], ids=["o1", "bf16"])
@pytest.mark.parametrize("kind", ["r50 frozen_bn", "r18 gn, all trained"])
def test_a_half_policy_casts_convolutions_alone(kind: str, policy: Policy) -> None:
    """Weights of 4 dimensions and their biases; norms, scales and statistics stay float32.

    So do the matrix products of the DGQP in bfloat16, which an NPU does not multiply.
    """
    cfg = KINDS[kind]
    variables = detector.init(cfg)
    flat = flatten(detector.prepare(variables, detector.freeze(variables, cfg), policy).tree)
    weights = {path for path, leaf in flat.items() if leaf.ndim == 4}
    if policy == BF16:
        weights = {path for path in weights if not path.startswith("bbox_head.reg_conf.")}
    biases = {path.removesuffix("weight") + "bias" for path in weights} & set(flat)
    assert {path for path, leaf in flat.items() if leaf.dtype == policy.compute} == weights | biases
    rest = {leaf.dtype for path, leaf in flat.items() if path not in weights | biases and leaf.is_floating_point()}
    assert rest == {torch.float32}


@BY_KIND
def test_fp32_prepares_to_float32_and_leaves_the_variables_alone(cfg: DetectorConfig) -> None:
    variables = lively(cfg)
    before = {path: leaf.clone() for path, leaf in flatten(variables).items()}
    prepared = flatten(detector.prepare(variables, detector.freeze(variables, cfg), FP32).tree)
    assert {leaf.dtype for leaf in prepared.values() if leaf.is_floating_point()} == {torch.float32}
    after = flatten(variables)
    assert list(after) == list(before)
    assert all(torch.equal(after[path], before[path]) for path in before)


@pytest.mark.parametrize("policy", [O1, BF16], ids=["o1", "bf16"])
def test_half_policies_give_float32_outputs_near_those_of_fp32(policy: Policy) -> None:
    cfg = small("gn", frozen_stages=-1)
    variables = lively(cfg)
    constants = detector.freeze(variables, cfg)
    batch = batch_of()
    x = detector.normalise(batch.images, batch.image_sizes, cfg)
    with torch.no_grad():
        exact = detector.forward(detector.prepare(variables, constants), x, cfg)
        rounded = detector.forward(detector.prepare(variables, constants, policy), x, cfg)
    assert {part.dtype for part in rounded} == {torch.float32}
    # bfloat16 has 8 bits: logits of about 2 move by a few percent
    assert float((rounded.scores - exact.scores).abs().mean()) < 0.01
    assert float((rounded.edge_logits - exact.edge_logits).abs().mean()) < 0.1


# ---- normalise, forward, loss ----


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
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    batch = batch_of(3)
    x = detector.normalise(batch.images, batch.image_sizes, cfg)
    with torch.no_grad():
        together = detector.forward(prepared, x, cfg)
        for i in range(3):
            alone = detector.forward(prepared, x[i : i + 1], cfg)
            # other blocking of the same float32 sums
            torch.testing.assert_close(alone.scores, together.scores[i : i + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.edge_logits, together.edge_logits[i : i + 1], rtol=1e-4, atol=1e-4)


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
            edges[0, anchor].double().numpy(),
            (flat["0.weight"], flat["0.bias"]),
            (flat["2.weight"], flat["2.bias"]),
        )
        assert float(got[0, anchor, 0]) == pytest.approx(expected, rel=1e-5)


def test_the_quality_sends_gradients_into_the_distribution() -> None:
    cfg = HeadConfig(channels=8, gn_groups=4, quality_channels=8)
    variables = child(golden_cases.filled({"bbox_head": head.init(0, 3, 8, cfg)}), "bbox_head.reg_conf")
    edges = torch.randn((1, 5, 4, 17), generator=torch.Generator().manual_seed(0)).requires_grad_()
    head.dgqp(variables, edges, cfg).sum().backward()
    assert edges.grad is not None
    assert (edges.grad.abs().amax(dim=3) > 0).all()


def test_the_total_loss_is_the_sum_of_its_parts_and_a_function_of_its_inputs() -> None:
    cfg = small()
    variables = lively(cfg)
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
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
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    batch, grid = batch_of(3), make_grid(CANVAS_HW)
    with torch.no_grad():
        together = detector.predict(prepared, batch.images, batch.image_sizes, grid, cfg)
        for i in range(3):
            alone = detector.predict(prepared, batch.images[i : i + 1], batch.image_sizes[i : i + 1], grid, cfg)
            assert together.num_detections[i] == alone.num_detections[0] > 0
            torch.testing.assert_close(together.scores[i], alone.scores[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.boxes_xyxy[i], alone.boxes_xyxy[0], rtol=1e-4, atol=1e-2)


# ---- the grid ----


@pytest.mark.parametrize("canvas_hw", [(32, 32), (64, 96), (800, 1344), (256, 320)])
def test_the_grid_is_that_of_the_loops(canvas_hw: tuple[int, int]) -> None:
    grid, anchors = make_grid(canvas_hw), reference.anchors_of(canvas_hw)
    assert grid.num_anchors == len(anchors)
    assert grid.centres_px.tolist() == [[anchor.x, anchor.y] for anchor in anchors]
    assert grid.strides.tolist() == [anchor.stride for anchor in anchors]
    assert list(grid.starts) == [next(i for i, a in enumerate(anchors) if a.level == level) for level in range(5)]


@pytest.mark.parametrize("canvas_hw", [(0, 32), (33, 64), (64, 100), (-32, 32)])
def test_a_canvas_of_odd_sides_is_refused(canvas_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        make_grid(canvas_hw)


@pytest.mark.parametrize("size_hw", [(0, 0), (1, 1), (32, 32), (33, 64), (250, 301), (256, 320)])
def test_cells_of_a_pictures_own_padded_shape_are_those_of_the_loops(size_hw: tuple[int, int]) -> None:
    padded = padded_sizes(torch.tensor([size_hw], dtype=torch.int32))
    assert padded.dtype == torch.int32
    assert padded[0].tolist() == [-(-side // 32) * 32 for side in size_hw]
    high, wide = padded[0].tolist()
    expected = [reference.is_inside(anchor, (high, wide)) for anchor in reference.anchors_of((256, 320))]
    assert cells_inside(make_grid((256, 320)), padded)[0].tolist() == expected


# ---- configuration ----


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
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_its_value(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
