"""The run of twin.npz: thirty steps of the small model on real pictures, as the authors' code took them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import golden_cases
import numpy as np
import pytest
import torch
from golden_cases import SMALL

from gfl.data.coco import CocoData
from gfl.model import detector
from gfl.model.anchors import make_grid
from gfl.tensors.variables import flatten


def twin_losses(arrays: golden_cases.Arrays, data: CocoData) -> Iterator[list[float]]:
    """The small model on the authors' pictures, at their learning rates: total, qfl, dfl and giou before each step.

    Where the file has the authors' assignment, it is taken.
    """
    owners = arrays.get("assigned_gt_inds")
    rows, first = arrays["total_qfl_dfl_giou_lr"], int(arrays["first"])
    variables = golden_cases.filled(detector.init(SMALL))
    leaves = list(flatten(variables).values())
    for leaf in leaves:
        leaf.requires_grad_()
    constants = detector.freeze(variables, SMALL)
    optimiser = torch.optim.SGD(leaves, lr=0.01, momentum=0.9, weight_decay=1e-4)
    for step, row in enumerate(rows.tolist()):
        batch = golden_cases.stack_placed(golden_cases.twin_pictures(data.pictures, first, step))
        grid = make_grid((batch.images.shape[2], batch.images.shape[3]))
        with ExitStack() as stack:
            if owners is not None:
                given = owners[step].astype(np.int64)
                golden = golden_cases.assignment_of(given, given >= 0, batch.box_mask.shape[1])
                stack.enter_context(patch.object(detector, "assign", lambda *_, golden=golden: golden))
            total, parts = detector.loss(detector.prepare(variables, constants), batch, grid, SMALL)
        yield [float(part.detach()) for part in (total, parts["qfl"], parts["dfl"], parts["giou"])]
        assert row[4] == pytest.approx(golden_cases.twin_lr(step))
        optimiser.param_groups[0]["lr"] = row[4]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
