"""The goldens of the authors' code on a device: how far forward, losses, gradients, steps and detections are from them.

    python tests/support/device_parity.py --device npu --json parity.json

`make npu-check` runs this; tests/test_parity.py is the same comparison on the CPU, to the authors' own noise floor. The
model, the boxes and the post-processing run on the device, the comparison on the host. Exit 1 where a figure is beyond
its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [entry for entry in (str(HERE), str(HERE.parents[1])) if entry not in sys.path]

import golden_cases  # noqa: E402  # after the path
from golden_cases import CANVAS_HW, LEVELS  # noqa: E402

from gfl.engine.device import choose_device, describe  # noqa: E402
from gfl.errors import InputError  # noqa: E402
from gfl.model import detector  # noqa: E402
from gfl.model.anchors import Grid, make_grid  # noqa: E402
from gfl.model.assign import ATSSConfig, assign  # noqa: E402
from gfl.model.detector import DetectorConfig  # noqa: E402
from gfl.model.postprocess import PredictConfig, detect  # noqa: E402
from gfl.model.prepare import Constants  # noqa: E402
from gfl.model.structures import Assignment, Batch, Detections, Outputs  # noqa: E402
from gfl.tensors.variables import Variables, flatten, map_leaves, unflatten  # noqa: E402

R50 = DetectorConfig()
# On the CPU those of goldens/README.md; the first SGD steps are compared, later ones amplify rounding.
CPU_LIMITS = {
    "scores": 1e-5,  # largest difference
    "edge_logits": 1e-4,
    "anchors": 0.0,  # that go to another box
    "losses": 1e-5,  # relative, of a total
    "gradients": 1e-3,  # relative, of a leaf's l2 norm
    "unmatched": 0.0,  # share of detections without an equal
    "steps": 1e-4,  # relative, of a total
}
# An accelerator adds in another order and has kernels of its own for exp and log: ten times the CPU's limits, an anchor
# or two on the other side of a threshold, and one detection in 200. On an NPU nobody has measured them yet.
OTHER_LIMITS = {**{name: 10 * limit for name, limit in CPU_LIMITS.items()}, "anchors": 2.0, "unmatched": 0.005}
STEPS = 2  # of the five SGD steps
BOX_PX, SCORE = 0.05, 1e-4  # a detection has its equal within these


class Subject(NamedTuple):
    """The goldens' R50 on a device; trainable leaves require a gradient."""

    device: torch.device
    variables: Variables
    constants: Constants
    grid: Grid

    def forward(self, x: Tensor, variables: Variables | None = None) -> Outputs:
        """Head outputs of normalised pictures."""
        prepared = detector.prepare(self.variables if variables is None else variables, self.constants)
        return detector.forward(prepared, x.to(self.device), R50)

    def leaves(self) -> dict[str, Tensor]:
        """The trainable ones, by path."""
        return {path: leaf for path, leaf in flatten(self.variables).items() if leaf.requires_grad}


def make_subject(device: torch.device) -> Subject:
    """The R50 of the paper with the goldens' weights."""
    variables = map_leaves(lambda leaf: leaf.to(device), golden_cases.filled(detector.init(R50)))
    for path, leaf in flatten(variables).items():
        leaf.requires_grad_(not detector.is_frozen(path, R50))
    return Subject(device, variables, detector.freeze(variables, R50), make_grid(CANVAS_HW, device))


# ---- forward ----


def forward_figures(outputs: Outputs, goldens: golden_cases.Arrays) -> dict[str, float]:
    """Largest difference of a score and of an edge logit."""
    grid = make_grid(CANVAS_HW)
    figures = {}
    for figure, name, flat in (
        ("scores", "cls", outputs.scores),
        ("edge_logits", "reg", outputs.edge_logits.flatten(2)),
    ):
        pieces = golden_cases.by_level(flat.detach().cpu(), grid)
        figures[figure] = max(
            float(
                np.abs(
                    got.reshape(-1).numpy()[:: int(goldens[f"{name}.{level}.step"])] - goldens[f"{name}.{level}.flat"]
                ).max()
            )
            for level, got in zip(LEVELS, pieces, strict=True)
        )
    return figures


# ---- losses and gradients ----


TIED = ("ties", "many60", "tiny", "huge")  # cases in which the choice between equally near anchors shows


def assignment_figures(subject: Subject, goldens: golden_cases.Arrays, names: Sequence[str]) -> float:
    """Anchors that go to another box than the authors', in all cases without ties."""
    differing = 0
    for case in (golden_cases.loss_case(goldens, name) for name in names if name not in TIED):
        batch, padded_hw = on(subject.device, case.batch), case.padded_hw.to(subject.device)
        assignment = assign(subject.grid, padded_hw, batch, ATSSConfig(ignore_iof=case.ignore_iof))
        owner = golden_cases.owners_of(Assignment(*(part.cpu() for part in assignment)))
        differing += int((owner != np.maximum(case.owner, 0)).sum())
    return float(differing)


def loss_of(subject: Subject, outputs: Outputs, case: golden_cases.LossCase) -> Tensor:
    """The total on the device, with the authors' assignment: another choice in `ties` moves its losses by 1e-2."""
    slots = case.batch.box_mask.shape[1]
    golden = golden_cases.assignment_of(case.owner, case.counted, slots)
    assignment = Assignment(*(part.to(subject.device) for part in golden))
    batch, padded_hw = on(subject.device, case.batch), case.padded_hw.to(subject.device)
    with patch.object(detector, "assign", lambda *_: assignment):
        total, _ = detector.loss_of_outputs(outputs, batch, padded_hw, subject.grid, R50)
    return total


def on(device: torch.device, batch: Batch) -> Batch:
    return Batch(*(part.to(device) for part in batch))


def golden_total(case: golden_cases.LossCase) -> float:
    """The authors' total; where theirs is 0/0, what is left of it."""
    return float(case.qfl.sum()) if np.isnan(case.total) else case.total


def loss_figures(subject: Subject, outputs: Outputs, goldens: golden_cases.Arrays, names: Sequence[str]) -> float:
    """Largest relative difference of a total loss, over the cases."""
    return max(
        relative(float(loss_of(subject, outputs, case).detach()), golden_total(case))
        for case in (golden_cases.loss_case(goldens, name) for name in names)
    )


def gradient_figures(subject: Subject, outputs: Outputs, goldens: golden_cases.Arrays, names: Sequence[str]) -> float:
    """Largest relative difference of the l2 norm of a leaf's gradient, over leaves and cases."""
    largest = 0.0
    leaves = subject.leaves()
    for name in names:
        given = [path for path in leaves if f"{name}.grad.{path}.l2" in goldens]
        total = loss_of(subject, outputs, golden_cases.loss_case(goldens, name))
        gradients = torch.autograd.grad(total, [leaves[path] for path in given], retain_graph=True)
        for path, gradient in zip(given, gradients, strict=True):
            length = float(gradient.cpu().double().norm())
            largest = max(largest, relative(length, float(goldens[f"{name}.grad.{path}.l2"])))
    return largest


def step_figures(subject: Subject, goldens: golden_cases.Arrays, steps: int = STEPS) -> float:
    """Largest relative difference of the total before the first steps of SGD, by the optimiser that training uses."""
    flat = {path: leaf.detach().clone() for path, leaf in flatten(subject.variables).items()}
    trained = [leaf.requires_grad_() for path, leaf in flat.items() if not detector.is_frozen(path, R50)]
    optimiser = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    x = golden_cases.normal_input(int(goldens["input_seed"]))
    name = next(key for key in sorted(goldens) if key.startswith("sgd"))
    case = golden_cases.loss_case(goldens, name.split(".")[1])
    largest = 0.0
    for row in goldens[name][:steps].tolist():
        total = loss_of(subject, subject.forward(x, unflatten(flat)), case)
        largest = max(largest, relative(float(total.detach()), row[0]))
        optimiser.zero_grad()
        torch.autograd.backward(total)
        optimiser.step()
    return largest


def relative(got: float, expected: float) -> float:
    """|got - expected| as a share of the expected; infinite where what was got is no number."""
    difference = abs(got - expected) / max(abs(expected), 1e-12)
    return difference if np.isfinite(difference) else float("inf")


# ---- detections ----


def detection_figures(subject: Subject, outputs: Outputs, goldens: golden_cases.Arrays, names: Sequence[str]) -> float:
    """Share of the authors' detections without an equal among ours, over all cases."""
    missing = expected = 0
    for case in map(golden_cases.detect_case, names):
        shown = outputs
        if case.synthetic:
            shown = golden_cases.synthetic_outputs(int(goldens["synth_seed"]), make_grid(CANVAS_HW))
        shown = Outputs(*(part.detach().to(subject.device) for part in shown[:2]))
        sizes = case.image_sizes.to(subject.device)
        as_reference = PredictConfig(
            score_threshold=case.score_threshold, nms_pre=case.nms_pre, keep_background=True, keep_padding_cells=True
        )
        detections = detect(shown, sizes, subject.grid, R50.num_classes, as_reference)
        for lost, total in unmatched(Detections(*(part.cpu() for part in detections)), case, goldens):
            missing, expected = missing + lost, expected + total
    return missing / max(expected, 1)


def unmatched(
    found: Detections, case: golden_cases.DetectCase, goldens: golden_cases.Arrays
) -> Iterator[tuple[int, int]]:
    """A picture at a time: golden detections without an equal, and all of them."""
    for i in range(2):
        golden = goldens[f"{case.name}.img{i}.det_bboxes"]
        labels = goldens[f"{case.name}.img{i}.det_labels"]
        count = int(found.num_detections[i])
        boxes = (found.boxes_xyxy[i, :count] / case.scale_xyxy).numpy()
        scores, classes = found.scores[i, :count].numpy(), found.labels[i, :count].numpy()
        lost = abs(len(golden) - count)
        for box, label in zip(golden, labels, strict=True):
            near = np.abs(boxes - box[:4]).max(axis=1, initial=0.0) < BOX_PX
            lost += not (near & (classes == label) & (np.abs(scores - box[4]) < SCORE)).any()
        yield lost, len(golden)


# ---- the whole ----


def measure(device: torch.device, folder: Path) -> dict[str, float]:
    """All figures on one device."""
    forward, loss, detections = (golden_cases.read(folder, f"{name}.npz") for name in ("forward", "loss", "detect"))
    subject = make_subject(device)
    outputs = subject.forward(golden_cases.normal_input(int(forward["input_seed"])))
    figures = forward_figures(outputs, forward)
    cases = golden_cases.names_before(folder, "loss.npz", ".loss_cls")
    figures["anchors"] = assignment_figures(subject, loss, cases)
    figures["losses"] = loss_figures(subject, outputs, loss, cases)
    figures["gradients"] = gradient_figures(subject, outputs, loss, golden_cases.gradient_cases(folder))
    names = golden_cases.names_before(folder, "detect.npz", ".num_candidates")
    figures["unmatched"] = detection_figures(subject, outputs, detections, names)
    del outputs  # the graph of the forward pass
    figures["steps"] = step_figures(subject, loss)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 0, 1 where a figure is beyond its limit, 2 on a user's mistake."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "npu"))
    flags.add_argument("--goldens", type=Path, default=HERE.parent / "goldens", help="default: tests/goldens")
    flags.add_argument("--json", type=Path, help="write the figures and their limits to this file")
    arguments = flags.parse_args(argv)
    try:
        device = choose_device(arguments.device)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # its inputs would be rounded to 11 bits
    limits = CPU_LIMITS if device.type == "cpu" else OTHER_LIMITS
    figures = measure(device, arguments.goldens)
    beyond = [name for name, figure in figures.items() if not figure <= limits[name]]
    print(f"on {describe(device)}, against the authors' code:")
    for name, figure in figures.items():
        print(f"  {name:12} {figure:.2e}   limit {limits[name]:.0e}{'   beyond it' if name in beyond else ''}")
    if arguments.json is not None:
        content = {"device": describe(device), "figures": figures, "limits": limits, "beyond": beyond}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
