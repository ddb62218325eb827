"""The feature pyramid."""

from __future__ import annotations

import torch
from small_models import read_by

from gfl.model import fpn
from gfl.model.fpn import FPNConfig
from gfl.tensors.variables import flatten


def test_the_pyramid_reads_what_its_init_makes_and_no_more() -> None:
    cfg = FPNConfig(8)
    variables = fpn.init(0, (4, 6, 8), cfg)
    features = tuple(torch.zeros((1, channels, size, size)) for channels, size in ((4, 8), (6, 4), (8, 2)))
    assert read_by(lambda tree: fpn.apply(tree, features), variables) == set(flatten(variables))
