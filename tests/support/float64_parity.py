"""The R50 in float64 beside the authors' code in float64: the largest relative differences, as JSON.

    python tests/support/float64_parity.py FOLDER CASE ...

FOLDER holds loss_r50_float64.npz; losses are compared in all its cases, gradients in those named. The model's code says
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
import golden_cases  # noqa: E402


def main(folder: Path, gradient_cases: list[str]) -> None:
    goldens = golden_cases.read(folder, "loss_r50_float64.npz")
    cases = golden_cases.names_before(folder, "loss_r50_float64.npz", ".loss_cls")
    subject = device_parity.make_subject(torch.device("cpu"))
    outputs = subject.forward(golden_cases.normal_input(int(goldens["input_seed"])))
    figures = {
        "losses": device_parity.loss_figures(subject, outputs, goldens, cases),
        "gradients": device_parity.gradient_figures(subject, outputs, goldens, gradient_cases),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
