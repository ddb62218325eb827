"""The whole twin run beside the authors', every fifth step: GFL_TEST_DATA=... python tests/support/twin_curve.py.

A table of the total loss: the authors', ours with their choice among equally near anchors, ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
from test_parity import assign_as_the_authors, twin_losses

from gfl.data.coco import read_coco
from gfl.model import detector

ROOT = Path(os.environ["GFL_TEST_DATA"]) / "bccd"
EVERY = 5


def main() -> None:
    arrays = dict(np.load(Path(__file__).resolve().parents[1] / "goldens" / "twin.npz"))
    data = read_coco(ROOT / "annotations" / "instances_train.json", ROOT / "train", keep_empty=False)
    golden = arrays["total_qfl_dfl_giou_lr"][:, 0].tolist()
    with patch.object(detector, "assign", assign_as_the_authors):
        same_ties = [row[0] for row in twin_losses(arrays, data)]
    own_ties = [row[0] for row in twin_losses(arrays, data)]
    print("| step | authors | ours, their ties | ours |\n|---|---|---|---|")
    for step in sorted({*range(0, len(golden), EVERY), len(golden) - 1}):
        print(f"| {step} | {golden[step]:.4f} | {same_ties[step]:.4f} | {own_ties[step]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
