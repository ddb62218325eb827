"""Models in float64 beside the authors' code in float64: the largest differences, as JSON.

    python tests/support/float64_parity.py losses FOLDER CASE ...
    python tests/support/float64_parity.py steps|forward|twin FOLDER PICTURES
    python tests/support/float64_parity.py gradients FOLDER MODEL:CASE

FOLDER holds the goldens that end in _float64.npz. Differences are relative, but of `forward` in tolerances of the file.
Of `losses` all cases are compared, and the gradients of those named; PICTURES are those of twin. The model's code says
float32 wherever it must not compute in less. This process makes that name mean float64, and does so before it imports
the code, so it has to be a process of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

torch.float32 = torch.float64  # type: ignore[misc]  # the name is bound anew on purpose
torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]  # likewise
torch.set_default_dtype(torch.float64)

import device_parity  # noqa: E402  # after float32 is float64
import family_parity  # noqa: E402
import golden_cases  # noqa: E402
import numpy as np  # noqa: E402
from twin_run import twin_losses  # noqa: E402

from gfl.data.coco import read_coco  # noqa: E402

LOSSES = "loss_r50_float64.npz"


def losses(folder: Path, gradient_cases: list[str]) -> dict[str, float]:
    goldens = golden_cases.read(folder, LOSSES)
    cases = golden_cases.names_before(folder, LOSSES, ".loss_cls")
    subject = device_parity.make_subject(torch.device("cpu"))
    outputs = subject.forward(golden_cases.normal_input(int(goldens["input_seed"])))
    return {
        "losses": device_parity.loss_figures(subject, outputs, goldens, cases),
        "gradients": device_parity.gradient_figures(subject, outputs, goldens, gradient_cases),
    }


def steps(folder: Path, _: list[str]) -> dict[str, float]:
    subject = device_parity.make_subject(torch.device("cpu"))
    return {"steps": device_parity.step_figures(subject, golden_cases.read(folder, LOSSES), steps=5)}


def forward(folder: Path, _: list[str]) -> dict[str, float]:
    name = "r2n101_dcn_c4c5_float64"
    arrays = golden_cases.read(folder, f"forward_{name}.npz")
    figures = {}
    for part, got, tolerance in family_parity.forward_parts(name, arrays):
        chosen = got.reshape(-1)[:: int(arrays[f"{part}.step"])].numpy()
        figures[part] = float(np.abs(chosen - arrays[f"{part}.flat"]).max()) / tolerance
    return figures


def gradients(folder: Path, names: list[str]) -> dict[str, float]:
    """Fails where they do not agree: the files are of float32."""
    for name in names:
        family_parity.check_family_gradients(name, folder)
    return {}


def twin(folder: Path, pictures: list[str]) -> dict[str, float]:
    arrays = golden_cases.read(folder, "twin_float64.npz")
    root = Path(pictures[0])
    data = read_coco(root / "annotations" / "instances_train.json", root / "train", keep_empty=False)
    golden = arrays["total_qfl_dfl_giou_lr"]
    found = np.array(list(twin_losses(arrays, data)))
    return {f"step {step}": float(row.max()) for step, row in enumerate(np.abs(found / golden[:, :4] - 1))}


if __name__ == "__main__":
    part = {"losses": losses, "steps": steps, "forward": forward, "gradients": gradients, "twin": twin}[sys.argv[1]]
    print(json.dumps(part(Path(sys.argv[2]), sys.argv[3:])))
