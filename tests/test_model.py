"""An open model gives detections, or a sentence, whatever its file says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gfl.errors import InputError
from gfl.runtime.model import require_detections

B, D = 2, 5
GOOD: dict[str, NDArray[np.generic]] = {
    "boxes": np.zeros((B, D, 4), np.float32),
    "scores": np.zeros((B, D), np.float32),
    "labels": np.array([[0, 1, -1, -1, -1], [-1] * 5], np.int32),
    "count": np.array([2, 0], np.int32),
    "edge_std": np.zeros((B, D, 4), np.float32),
    "complete": np.ones(B, np.int32),
}


def test_detections_pass() -> None:
    require_detections(GOOD, B, Path("a.onnx"))


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("scores", np.zeros(B, np.float32), r"gives scores of shape \(2,\)"),
        ("boxes", np.zeros((B, D, 3), np.float32), r"gives boxes of shape \(2, 5, 3\), expected .* \(2, 5, 4\)"),
        ("labels", np.array([["a"] * D] * B), "gives labels"),
        ("labels", np.full((B, D), -7, np.int32), "counts or labels out of their range"),
        ("count", np.array([6, 0], np.int32), "counts 0 to 6 for 5 slots"),
        ("count", np.array([-1, 0], np.int32), "counts -1 to 0 for 5 slots"),
    ],
)
def test_other_outputs_are_one_sentence(name: str, array: NDArray[np.generic], said: str) -> None:
    with pytest.raises(InputError, match=said):
        require_detections(GOOD | {name: array}, B, Path("a.onnx"))


def test_a_missing_output_is_one_sentence() -> None:
    with pytest.raises(InputError, match="gives edge_std of shape None"):
        require_detections({name: array for name, array in GOOD.items() if name != "edge_std"}, B, Path("a.onnx"))
