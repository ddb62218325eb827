"""Batch-norms folded into their convolutions, and weights cast to a policy's dtype."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import BY_KIND, KINDS, batch_of, lively, prepared_of, read_by, small
from torch import Tensor

from gfl.model import detector
from gfl.model.backbones import resnet
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.tensors.precision import BF16, O1, Policy
from gfl.tensors.variables import child, flatten, unflatten


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_the_folded_backbone_reads_convolutions_alone_and_all_of_them(depth: int) -> None:
    cfg = DetectorConfig(backbone=ResNetConfig(depth=depth, base_width=8))
    variables = detector.init(cfg)
    x = torch.zeros((1, 3, 32, 32))
    prepared = child(prepared_of(variables, cfg).tree, "backbone")
    read = read_by(lambda tree: resnet.apply(tree, x, cfg.backbone), prepared)
    convolutions = [p for p, leaf in flatten(child(variables, "backbone")).items() if leaf.ndim == 4]
    biases = [path.removesuffix("weight") + "bias" for path in convolutions]
    assert read == {*convolutions, *biases}


@pytest.mark.parametrize("kind", ["r18 frozen_bn", "r50 frozen_bn, all trained"])
def test_every_norm_leaf_of_the_backbone_changes_the_features(kind: str) -> None:
    """Statistics and affine parts reach the outputs through `freeze` and `prepare`."""
    cfg = KINDS[kind]
    flat = flatten(lively(cfg))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32))

    def features(changed: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return resnet.apply(child(prepared_of(unflatten(changed), cfg).tree, "backbone"), x, cfg.backbone)

    with torch.no_grad():
        before = features(flat)
        for path, leaf in flat.items():
            if path.startswith("backbone.") and leaf.ndim == 1:
                after = features({**flat, path: leaf + 0.5})
                assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), path


@BY_KIND
def test_folding_equals_convolution_and_norm_apart(cfg: DetectorConfig) -> None:
    """In float64 against batch-norm as PyTorch computes it; with GroupNorm there is nothing to fold."""
    variables = lively(cfg)
    flat = flatten(child(variables, "backbone"))
    folded = flatten(child(prepared_of(variables, cfg).tree, "backbone"))
    norms = [path.removesuffix(".running_var") for path in flat if path.endswith(".running_var")]
    assert (norms == []) == ("gn1" in child(variables, "backbone"))
    for norm in norms:
        number = re.search(r"(?:stem|downsample)\.(\d+)$", norm)  # there, a norm stands after its convolution
        conv = norm.replace("bn", "conv") if number is None else f"{norm[: number.start(1)]}{int(number[1]) - 1}"
        weight = flat[f"{conv}.weight"].double()
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, weight.shape[1], 9, 9)))
        parts = (flat[f"{norm}.{name}"].double() for name in ("running_mean", "running_var", "weight", "bias"))
        expected = F.batch_norm(F.conv2d(x, weight), *parts, eps=1e-5)
        got = F.conv2d(x, folded[f"{conv}.weight"].double(), folded[f"{conv}.bias"].double())
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)  # float32 weights


@pytest.mark.parametrize("policy", [O1, BF16], ids=["o1", "bf16"])
@pytest.mark.parametrize("kind", ["r50 frozen_bn", "r18 gn, all trained"])
def test_a_half_policy_casts_convolutions_alone(kind: str, policy: Policy) -> None:
    """Weights of 4 dimensions and their biases; norms, scales and statistics stay float32.

    So do the matrix products of the DGQP in bfloat16, which an NPU does not multiply.
    """
    cfg = KINDS[kind]
    flat = flatten(prepared_of(detector.init(cfg), cfg, policy).tree)
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
    prepared = flatten(prepared_of(variables, cfg).tree)
    assert {leaf.dtype for leaf in prepared.values() if leaf.is_floating_point()} == {torch.float32}
    after = flatten(variables)
    assert list(after) == list(before)
    assert all(torch.equal(after[path], before[path]) for path in before)


@pytest.mark.parametrize("policy", [O1, BF16], ids=["o1", "bf16"])
def test_half_policies_give_float32_outputs_near_those_of_fp32(policy: Policy) -> None:
    cfg = small("gn", frozen_stages=-1)
    variables = lively(cfg)
    batch = batch_of()
    x = detector.normalise(batch.images, batch.image_sizes, cfg)
    with torch.no_grad():
        exact = detector.forward(prepared_of(variables, cfg), x, cfg)
        rounded = detector.forward(prepared_of(variables, cfg, policy), x, cfg)
    assert {part.dtype for part in rounded[:2]} == {torch.float32}
    # bfloat16 has 8 bits: logits of about 2 move by a few percent
    assert float((rounded.scores - exact.scores).abs().mean()) < 0.01
    assert float((rounded.edge_logits - exact.edge_logits).abs().mean()) < 0.1
