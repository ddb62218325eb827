"""What the parity tests of every model share: the goldens' weights in a model, and comparisons with its files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import golden_cases
import numpy as np
import pytest
from torch import Tensor

from gfl.model import detector
from gfl.model.detector import DetectorConfig
from gfl.model.prepare import Constants
from gfl.tensors.variables import Variables, flatten


class Model(NamedTuple):
    """A model with the goldens' weights; trainable leaves require a gradient."""

    cfg: DetectorConfig
    variables: Variables
    constants: Constants

    @property
    def trainable(self) -> dict[str, Tensor]:
        return {path: leaf for path, leaf in flatten(self.variables).items() if leaf.requires_grad}


def in_float64(part: str, folder: Path, *arguments: object) -> dict[str, float]:
    """What float64_parity.py says, in a process of its own."""
    script = Path(__file__).with_name("float64_parity.py")
    command = [sys.executable, str(script), part, str(folder), *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def make_model(cfg: DetectorConfig, variables: Variables) -> Model:
    for path, leaf in flatten(variables).items():
        leaf.requires_grad_(not detector.is_frozen(path, cfg))
    return Model(cfg, variables, detector.freeze(variables, cfg))


def check_golden_tensor(arrays: golden_cases.Arrays, name: str, got: Tensor, atol: float) -> None:
    """Every step-th element to `atol`, and the statistics of all of them."""
    assert list(got.shape) == arrays[f"{name}.shape"].tolist(), name
    chosen = got.reshape(-1)[:: int(arrays[f"{name}.step"])].numpy()
    np.testing.assert_allclose(chosen, arrays[f"{name}.flat"], rtol=0, atol=atol, err_msg=name)
    mean, std, _, largest = arrays[f"{name}.stats"].tolist()  # the sum says what the mean says
    found = got.double()
    statistics = [float(found.mean()), float(found.std(correction=0)), float(found.abs().max())]
    assert statistics == pytest.approx([mean, std, largest], abs=max(atol, 1e-4 * std)), name


def check_gradients(
    arrays: golden_cases.Arrays, case: str, of_path: Mapping[str, Tensor], *, length_rel: float, first_rel: float
) -> None:
    """Every leaf's gradient: its length, its first elements, and that the frozen ones have none.

    of_path: the gradients of the trainable leaves.
    """
    prefix = f"{case}.grad."
    for key in [key for key in arrays if key.startswith(prefix) and key.endswith(".l2")]:
        path, length = key.removeprefix(prefix).removesuffix(".l2"), float(arrays[key])
        assert (path not in of_path) == (length == -1), path
        if path in of_path:
            assert float(of_path[path].double().norm()) == pytest.approx(length, rel=length_rel), path
            first = arrays[f"{prefix}{path}.head"]
            got = of_path[path].flatten()[: first.size].numpy()
            # Where the first elements are small, the authors' own rounding is more than 3e-3 of them: 5e-4 of the
            # whole tensor's size. (In float64 two tensors of many60 leave the 3e-3 as well.)
            noise = 5e-4 * length / max(of_path[path].numel(), 1) ** 0.5
            atol = max(first_rel * float(np.abs(first).max()), noise)
            np.testing.assert_allclose(got, first, rtol=0, atol=atol, err_msg=path)
