"""The parts of the check: each runs the project's programs and judges what they wrote.

A part returns figures for the report, or raises Failed or Skipped with the reason.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from gfl.npu_check.check import ROOT, Check, Failed, Skipped
from gfl.npu_check.compare import agreement, number, read_rows, relative_differences, step_losses
from gfl.npu_check.report import Figures
from gfl.npu_check.sizes import RANK_STEPS, SPEED_STEPS, STEPS

EVALUATE_AT_THE_END = ("EPOCHS = 1000", "EVAL_EVERY = 1000")  # MAX_STEPS ends the run, and so it is evaluated once
PROVIDERS = {"cpu": "cpu", "cuda": "cuda", "npu": "cann"}  # infer/run.py's names of the devices

# What export.om asks of ATC: convolutions in float16, but the areas of boxes, too large for it, in float32.
CANN_PRECISION = ("--provider_options", "precision_mode=allow_fp32_to_fp16")

# Limits of the relative difference between two losses. float16 has 11 bits, and over 20 steps two runs drift apart
# (seen on a CPU: 1e-3); two ranks do the same arithmetic and sum in another order (seen on a CPU: 2e-7).
O1_LIMIT = 0.01
RANKS_LIMIT = 1e-3
# Share of the clear detections that have a partner; rounding moves a score across a threshold now and then.
LEAST_SHARE = {"float32": 0.98, "float16": 0.95}
MOST_SCORE = {"float32": 1e-3, "float16": 0.02}  # difference between two partners


# ---- the parts ----


def doctor(check: Check) -> Figures:
    """gfl.doctor, what a bug report needs; the report quotes all that it prints."""
    check.python_program("doctor", "-m", "gfl.doctor", "--device", check.device)
    return {}


def parity(check: Check) -> Figures:
    """Forward, assignment, losses, gradients, steps and detections against the goldens of the authors' code."""
    script, result = ROOT / "tests" / "support" / "device_parity.py", check.folder / "parity.json"
    if not script.is_file():
        raise Skipped("tests/support/device_parity.py and its goldens are not installed; run the check from a checkout")
    try:
        check.python_program("parity", str(script), "--device", check.device, "--json", str(result))
    except Failed as failure:
        if not result.is_file():
            raise
        content = json.loads(result.read_text(encoding="utf-8"))
        raise Failed(f"beyond the limit: {', '.join(content['beyond'])}", content, failure.tail) from failure
    content = json.loads(result.read_text(encoding="utf-8"))
    return {"figures": content["figures"], "limits": content["limits"]}


def training(check: Check) -> Figures:
    """Training steps in float32 and an evaluation, with fallback to the CPU forbidden."""
    run_folder = check.train("training", check.sizes.steps, f"MAX_STEPS = {STEPS}", *EVALUATE_AT_THE_END)
    losses = step_losses(read_rows(run_folder))
    figures = {"steps": len(losses), "losses": losses, "evaluated": (run_folder / "metrics.json").is_file()}
    if len(losses) != STEPS or not all(map(math.isfinite, losses)):
        raise Failed(f"got {len(losses)} losses, {losses}; expected {STEPS} finite ones", figures)
    return figures


def o1(check: Check) -> Figures:
    """O1 beside float32, for the large model and the one that has learned: losses are near, and no step is skipped."""
    learned = check.folder / "learning" / "last.pt"
    check.need(check.folder / "training" / "log.jsonl", learned)
    steps = (f"MAX_STEPS = {STEPS}", *EVALUATE_AT_THE_END)
    o1_too = (*steps, "PRECISION = 'o1'", "LOSS_SCALE = 128.0")
    sizes = check.sizes
    plain = check.train("learned_fp32", sizes.learning, *steps, checkpoint=learned)
    pairs = {
        "large model": (check.train("o1", sizes.steps, *o1_too), check.folder / "training"),
        "learned model": (check.train("learned_o1", sizes.learning, *o1_too, checkpoint=learned), plain),
    }
    figures: dict[str, object] = {"limit": O1_LIMIT}
    beyond = []
    for name, (half, single) in pairs.items():
        rows = read_rows(half)
        differences = relative_differences(step_losses(rows), step_losses(read_rows(single)))
        skipped = max((number(row.get("skipped")) for row in rows if "loss" in row), default=math.nan)
        figures[name] = {"first step": differences[0], "largest": max(differences), "skipped steps": skipped}
        figures[f"losses of the {name}"] = step_losses(rows)
        if not 0.0 < max(differences) <= O1_LIMIT:  # 0: nothing was computed in float16
            beyond.append(f"a loss of the {name} differs from float32's by {max(differences):.2%}")
        if skipped != 0:
            beyond.append(f"{skipped:g} steps of the {name} were skipped, their gradients not finite")
    if beyond:
        raise Failed(f"{'; '.join(beyond)}; expected more than 0, at most {O1_LIMIT:.0%}, and none skipped", figures)
    return figures


def ranks(check: Check) -> Figures:
    """Two ranks train as one rank does on the whole batch: the same losses to rounding."""
    if check.device != "cpu" and check.devices < 2:
        raise Skipped(f"there is {check.devices} device; two ranks need two")
    only = (f"MAX_STEPS = {RANK_STEPS}", "EVAL_EVERY = 0")
    alone, together = (
        step_losses(read_rows(check.train(name, check.sizes.steps, *only, ranks=count)))
        for name, count in (("one_rank", 1), ("two_ranks", 2))
    )
    differences = relative_differences(together, alone)
    figures = {"largest": max(differences), "limit": RANKS_LIMIT, "one rank": alone, "two ranks": together}
    if not max(differences) <= RANKS_LIMIT:
        raise Failed(f"a loss of two ranks differs by {max(differences):.2g}, expected {RANKS_LIMIT:g}", figures)
    return figures


def learning(check: Check) -> Figures:
    """A small model learns the generated shapes from random weights; its detections are compared later."""
    run_folder = check.train("learning", check.sizes.learning)
    metrics = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
    losses = step_losses(read_rows(run_folder))
    ap = number(metrics["AP"])
    figures = {"AP": ap, "AP50": metrics["AP50"], "least AP": check.sizes.least_ap}
    figures |= {"steps": len(losses), "first loss": losses[0], "last loss": losses[-1]}
    if not ap >= check.sizes.least_ap:
        raise Failed(f"got AP {ap:.3f} after {len(losses)} steps, expected {check.sizes.least_ap}", figures)
    return figures


def export(check: Check) -> Figures:
    """Both models as static ONNX files, each compared with PyTorch on the CPU before it gets its name."""
    learned, large = check.folder / "learning" / "last.pt", check.folder / "training" / "last.pt"
    check.need(learned, large)
    for name, checkpoint, sizes in (("learned", learned, ()), ("large", large, ("--size", check.sizes.canvas))):
        (check.folder / name).mkdir(exist_ok=True)
        flags = ("--checkpoint", str(checkpoint), "--output", str(check.folder / name), "--samples", "2", *sizes)
        check.python_program(f"export_{name}", "-m", "export.onnx", *flags)
    files = exported(check)
    soc_version = check.soc_version or "Ascend310P3"  # the command is printed, not run
    flags = ("--model", str(files[0]), "--soc_version", soc_version, "--print_only")
    atc_command = check.python_program("atc_command", "-m", "export.om", *flags).last_line()
    return {"bytes": {str(path.relative_to(check.folder)): path.stat().st_size for path in files}, "atc": atc_command}


def inference(check: Check) -> Figures:
    """The checkpoint on the device detects what the exported file detects on the CPU."""
    checkpoint = check.folder / "learning" / "last.pt"
    check.need(checkpoint, check.folder / "learned")
    pictures = check.data("learning") / "val2017"
    check.detect("detected_cpu", check.folder / "learned", pictures, "cpu")
    summary = check.detect("detected_device", checkpoint, pictures, PROVIDERS[check.device])
    return compared(check, "detected_device", "float32") | rates(summary)


def cann(check: Check) -> Figures:
    """The exported files detect the same through ONNX Runtime's CANN provider as on the CPU."""
    if check.device != "npu":
        raise Skipped("CANN's provider runs on an NPU only")
    if "CANNExecutionProvider" not in check.providers:
        raise Skipped(f"the installed onnxruntime offers {', '.join(check.providers)}; install onnxruntime-cann")
    check.need(check.folder / "detected_cpu" / "detections.json")
    return detections_of_both(check, "cann", "", *CANN_PRECISION)


def atc(check: Check) -> Figures:
    """ATC compiles both models."""
    if check.device != "npu":
        raise Skipped("ATC compiles for an NPU")
    if shutil.which("atc") is None:
        raise Skipped("atc is not on the PATH; source CANN's set_env.sh")
    if check.soc_version is None:
        raise Skipped("the NPU's name is not known; give --soc_version, e.g. Ascend310P3 (npu-smi info shows it)")
    check.need(check.folder / "learned", check.folder / "large")
    figures: dict[str, object] = {}
    for file in exported(check):
        output = check.folder / f"{file.parent.name}_om" / file.with_suffix(".om").name
        flags = ("--model", str(file), "--output", str(output), "--soc_version", check.soc_version)
        done = check.python_program(f"atc_{output.parent.name}_{file.stem}", "-m", "export.om", *flags)
        figures[str(output.relative_to(check.folder))] = {"bytes": output.stat().st_size, "seconds": done.seconds}
    return figures


def om(check: Check) -> Figures:
    """The compiled .om files detect what the ONNX files detect on the CPU."""
    if check.device != "npu":
        raise Skipped("a .om runs on an NPU only")
    if importlib.util.find_spec("ais_bench") is None:
        raise Skipped("the package ais_bench is not installed, which runs a .om; it comes with Ascend's tools")
    folder = check.folder
    check.need(folder / "detected_cpu" / "detections.json", folder / "learned_om", folder / "large_om")
    return detections_of_both(check, "om", "_om")


def speed(check: Check) -> Figures:
    """Images per second: of training in float32 and under O1, and of inference by the checkpoint."""
    figures: dict[str, object] = {}
    lengths = (f"MAX_STEPS = {SPEED_STEPS}", f"LOG_EVERY = {SPEED_STEPS // 2}", "EVAL_EVERY = 0")
    for precision in ("fp32", "o1"):
        rows = read_rows(check.train(f"speed_{precision}", check.sizes.steps, *lengths, f"PRECISION = {precision!r}"))
        last = [row for row in rows if "loss" in row][-1]
        figures[f"training, {precision}"] = {name: number(last[name]) for name in ("img_per_s", "data_wait")}
    checkpoint = check.folder / "training" / "last.pt"
    check.need(checkpoint)
    summary = check.detect("large_detected", checkpoint, check.data("steps") / "val2017", PROVIDERS[check.device])
    return figures | {"inference, checkpoint": rates(summary)}


Part = Callable[[Check], Figures]
PARTS: Mapping[str, Part] = {
    part.__name__: part
    for part in (doctor, parity, training, learning, o1, ranks, export, inference, cann, atc, om, speed)
}


# ---- what several parts do ----


def exported(check: Check) -> list[Path]:
    """The ONNX files of both models."""
    return sorted(path for name in ("learned", "large") for path in (check.folder / name).glob("*.onnx"))


def detections_of_both(check: Check, name: str, suffix: str, *more: str) -> Figures:
    """Detect with both models' files in learned`suffix` and large`suffix` on the NPU; compare those of the learned."""
    learned, large = check.data("learning") / "val2017", check.data("steps") / "val2017"
    summary = check.detect(f"detected_{name}", check.folder / f"learned{suffix}", learned, "cann", *more)
    figures = compared(check, f"detected_{name}", "float16") | rates(summary)
    summary = check.detect(f"large_detected_{name}", check.folder / f"large{suffix}", large, "cann", *more)
    return figures | {"large model": rates(summary)}


def compared(check: Check, name: str, precision: str) -> dict[str, object]:
    """Compare the detections in the folder `name` with those of the ONNX file on the CPU; Failed beyond the limits.

    precision: 'float32' or 'float16', which sets the limits.
    """
    files = (check.folder / folder / "detections.json" for folder in (name, "detected_cpu"))
    match = agreement(*(json.loads(file.read_text(encoding="utf-8")) for file in files))
    figures: dict[str, object] = {
        "clear detections of both": match.clear,
        "share with a partner": match.share,
        "least share": LEAST_SHARE[precision],
        "largest difference of a score": match.score_difference,
        "its limit": MOST_SCORE[precision],
    }
    if not match.clear:
        raise Failed("nothing was detected by either side, so nothing could be compared", figures)
    if match.share < LEAST_SHARE[precision] or match.score_difference > MOST_SCORE[precision]:
        raise Failed("the detections are not those of the exported file on the CPU", figures)
    return figures


def rates(summary: Mapping[str, object]) -> dict[str, object]:
    """The fields of a summary.json about speed and where the model ran."""
    return {name: summary[name] for name in ("img_per_s", "p50_ms", "p95_ms", "batch", "provider", "nodes_by_provider")}
