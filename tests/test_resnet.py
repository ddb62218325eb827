"""ResNet: its variables, their initial values, and which of them training leaves alone."""

from __future__ import annotations

import pytest
import torch
from small_models import read_by, small

from gfl.model import detector
from gfl.model.backbones import resnet, stages
from gfl.model.backbones.resnet import ResNetConfig
from gfl.tensors.variables import flatten


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_the_backbone_reads_what_its_init_makes_and_no_more(depth: int) -> None:
    cfg = ResNetConfig(depth=depth, base_width=8, norm="gn", gn_groups=4)
    variables = resnet.init(0, cfg)
    x = torch.zeros((1, 3, 32, 32))
    assert read_by(lambda tree: resnet.apply(tree, x, cfg), variables) == set(flatten(variables))


def test_what_is_frozen_is_what_the_recipe_says() -> None:
    cfg = small(depth=50)
    first_stage = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for path in flatten(detector.init(cfg)):
        assert detector.is_frozen(path, cfg) == (path.startswith(first_stage) or path.endswith(statistics)), path


@pytest.mark.parametrize("norm", ["frozen_bn", "gn"])
@pytest.mark.parametrize("depth", [18, 50])
def test_residual_branches_start_at_zero(norm: str, depth: int) -> None:
    """So a block starts as its shortcut: the last norm's scale is 0."""
    flat = flatten(resnet.init(0, small(norm, depth).backbone))
    last = ("3" if depth >= 50 else "2") + ".weight"
    norms = [path for path, leaf in flat.items() if path.startswith("layer") and leaf.ndim == 1 and path.endswith(last)]
    assert len(norms) == sum(stages.BLOCKS[depth])
    assert all(not flat[path].any() for path in norms)
