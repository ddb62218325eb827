"""Training: `python -m gfl.train --gin_file r50.gin --gin_bindings "DATA_ROOT = 'data/coco'"`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from gfl import __version__
from gfl.config import ParsedRun, read_run, read_text
from gfl.data.coco import read_coco
from gfl.data.loader import EvalLoader, LoadedBatch, TrainLoader, canvases_for
from gfl.data.paths import split_paths
from gfl.engine import progress
from gfl.engine.checkpoints import read_state, write_checkpoint
from gfl.engine.device import choose_device, describe, memory_gb
from gfl.engine.module import DetectorModule
from gfl.engine.optim import learning_rate
from gfl.engine.records import RunFolder, open_run
from gfl.engine.state import TrainState, averaged_leaves, make_state, restore, state_tree, step
from gfl.engine.weights import fetch_torchvision, fit, read_checkpoint
from gfl.errors import InputError
from gfl.evaluate import evaluate, predictor
from gfl.model import detector
from gfl.report.coco_eval import Metrics
from gfl.report.tables import evaluation_report
from gfl.settings import Canvas, RunConfig
from gfl.tensors.precision import BF16, FP32, O1
from gfl.tensors.variables import Variables, flatten, unflatten

POLICIES = {"fp32": FP32, "o1": O1, "bf16": BF16}


class Training:
    """What a run holds on to between its phases; `train` below reads top to bottom."""

    def __init__(self, parsed: ParsedRun, folder: RunFolder, saved: dict[str, object] | None) -> None:
        self.parsed, self.folder, cfg = parsed, folder, parsed.run
        self.out = progress.ProgressWriter(sys.stdout)
        self.device = choose_device(cfg.device)
        self.data = read_coco(*split_paths(cfg.data, "train"), keep_empty=cfg.data.keep_empty)
        self.val = read_coco(*split_paths(cfg.data, "val"), keep_empty=True) if cfg.eval_every else None
        if self.val is not None and self.val.names != self.data.names:
            raise InputError(
                f"{self.val.annotations} names the classes {self.val.names[:5]}, {self.data.annotations} "
                f"{self.data.names[:5]}; give training and validation the same categories"
            )
        self.cfg = replace(cfg, detector=replace(cfg.detector, num_classes=len(self.data.names)))
        self.canvases = canvases_for(self.data, cfg.data, val=self.val)
        self.loader = TrainLoader(
            self.data,
            cfg.data,
            self.canvases,
            batch_size=cfg.batch_size // cfg.accumulate,
            seed=cfg.seed,
            pin_memory=self.device.type != "cpu",
        )
        variables, self.origin = (
            initial_variables(self.cfg) if saved is None else (detector.init(self.cfg.detector), "")
        )
        module = DetectorModule(variables, self.cfg.detector, self.canvases or (), self.device, POLICIES[cfg.precision])
        self.state: TrainState = make_state(module, self.cfg)
        self.best = -1.0
        if saved is not None:
            restore(self.state, saved)
            self.best = float(str(saved["best"]))
            self.origin = f"resumed at step {self.state.cursor.step:,}"
        self.val_loader = self._val_loader()

    def _val_loader(self) -> EvalLoader | None:
        if self.val is None:
            return None
        batch = self.cfg.batch_size // self.cfg.accumulate
        return EvalLoader(self.val, self.cfg.data, self.canvases, batch_size=batch)


def train(run: Training) -> None:
    """The whole run: epochs of steps, a log line a step, an evaluation and a checkpoint an epoch."""
    cfg, cursor, log = run.cfg, run.state.cursor, StepLog(run)
    while cursor.epoch < cfg.epochs and not finished(run):
        groups = len(run.loader.plan(cursor.epoch))
        for group in grouped(run.loader.epoch(cursor.epoch, cursor.batch), cfg.accumulate, log):
            share = (cursor.epoch + cursor.batch / groups) / cfg.epochs
            rate = learning_rate(
                cfg.optim,
                cfg.batch_size,
                cursor.step,
                cursor.epoch,
                cursor.step / cfg.max_steps if cfg.max_steps else share,
            )
            batches = [type(loaded.batch)(*(part.to(run.device) for part in loaded.batch)) for loaded in group]
            metrics = step(run.state, batches, rate, cfg.optim)
            cursor.batch += len(group)
            log.add(group, metrics, rate, groups)
            if cursor.step == 1:
                run.folder.write_text("operative.gin", run.parsed.operative_text)
            if cfg.save_every and cursor.step % cfg.save_every == 0:
                log.flush()
                save(run, "last.pt")
            if finished(run):
                break
        log.flush()
        if cursor.batch >= groups:
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0
        last = cursor.epoch >= cfg.epochs or finished(run)
        if run.val_loader is not None and (last or (cursor.batch == 0 and cursor.epoch % cfg.eval_every == 0)):
            validate(run, final=last)
        save(run, "last.pt")


def finished(run: Training) -> bool:
    """Whether MAX_STEPS ends the run here."""
    return 0 < run.cfg.max_steps <= run.state.cursor.step


def validate(run: Training, *, final: bool) -> None:
    """Evaluate the averaged weights, record the numbers, keep the best."""
    if run.val is None or run.val_loader is None:
        return
    predict = predictor(unflatten(averaged_leaves(run.state)), run.cfg.detector, run.device)
    metrics, results, failed = evaluate(predict, run.val, run.val_loader)
    for reason in failed:
        run.out.line(f"without detections: {reason}")
    better = run.best < metrics.AP
    cursor = run.state.cursor
    row = {"step": cursor.step, "epoch": cursor.epoch, **metrics.summary()}
    run.folder.append([row])
    run.folder.append_result(row)
    run.folder.write_json("metrics.json", metrics.as_dict())
    run.folder.write_json("val_detections.json", results)
    if better:
        run.best = metrics.AP
        save(run, "best.pt")
    summary = metrics.summary()
    epoch = max(cursor.epoch, 1)
    run.out.line(progress.validation_line(epoch, run.cfg.epochs, summary, "best.pt" if better else None))
    if final:
        _report(run, metrics)


def _report(run: Training, metrics: Metrics) -> None:
    run.out.line("")
    run.out.line(evaluation_report(metrics))


def save(run: Training, name: str) -> None:
    """Write the state and what rebuilds the model from the file alone."""
    tree = {
        **state_tree(run.state),
        "best": run.best,
        "config": run.parsed.config_text,
        "operative": run.parsed.operative_text,
        "names": list(run.data.names),
        "category_ids": list(run.data.category_ids),
        "canvases": None if run.canvases is None else [list(canvas) for canvas in run.canvases],
    }
    write_checkpoint(run.folder.path / name, tree)


class StepLog:
    """Collects metrics on the device and copies them to the host once every LOG_EVERY steps."""

    def __init__(self, run: Training) -> None:
        self.run = run
        self.rows: list[dict[str, object]] = []
        self.metrics: list[dict[str, Tensor]] = []
        self.images = 0
        self.started = time.perf_counter()
        self.waited = 0.0  # seconds spent waiting for data since the last copy
        self.seen: set[str] = set()
        self.totals = [0, 0.0]  # steps done by this process, seconds they took
        self.epoch_steps = 0

    def add(self, group: list[LoadedBatch], metrics: dict[str, Tensor], rate: float, groups: int) -> None:
        """Note a step that is done; copies when it is time to."""
        cursor, cfg = self.run.state.cursor, self.run.cfg
        self.epoch_steps = -(-groups // cfg.accumulate)
        height, width = group[0].canvas
        row = {"step": cursor.step, "epoch": cursor.epoch, "lr": rate, "canvas": f"{height}x{width}"}
        self.rows.append(row)
        self.metrics.append(metrics)
        self.images += sum(image >= 0 for loaded in group for image in loaded.image_ids)
        for reason in (reason for loaded in group for reason in loaded.failed):
            if reason not in self.seen:
                self.seen.add(reason)
                self.run.out.line(f"passed over ({len(self.seen)} so far): {reason}")
        if len(self.rows) >= cfg.log_every:
            self.flush()

    def flush(self) -> None:
        """Copy what is on the device, write a line a step, show the progress. InputError when the loss diverged."""
        if not self.rows:
            return
        names = list(self.metrics[0])
        values = torch.stack([torch.stack([row[name] for name in names]) for row in self.metrics]).tolist()
        seconds = max(time.perf_counter() - self.started, 1e-9)
        speed = {"img_per_s": round(self.images / seconds, 3), "data_wait": round(self.waited / seconds, 4)}
        lines = [
            {**dict(zip(names, numbers, strict=True)), "skipped": 0.0, **row, **speed}
            for row, numbers in zip(self.rows, values, strict=True)
        ]
        for line, numbers in zip(lines, values, strict=True):
            if "skipped" in names:
                line["skipped"] = numbers[names.index("skipped")]
        self.run.folder.append(lines)
        self._show(lines[-1], seconds)
        for line in lines:
            if "skipped" not in names and line["loss"] != line["loss"]:
                raise InputError(
                    f"the loss is not a number at step {line['step']} (lr {line['lr']:.2g}); "
                    f"lower LR (it is for 16 images), raise WARMUP_STEPS or set CLIP"
                )
        self.rows, self.metrics, self.images, self.waited = [], [], 0, 0.0
        self.started = time.perf_counter()

    def _show(self, line: dict[str, object], seconds: float) -> None:
        cursor, cfg = self.run.state.cursor, self.run.cfg
        self.totals[0] += len(self.rows)
        self.totals[1] += seconds
        left = (cfg.epochs - cursor.epoch) * self.epoch_steps - cursor.batch // cfg.accumulate
        if cfg.max_steps:
            left = cfg.max_steps - cursor.step
        peak = memory_gb(self.run.device)
        self.run.out.update(
            progress.EpochProgress(
                epoch=cursor.epoch + 1,
                epochs=cfg.epochs,
                step=cursor.batch // cfg.accumulate,
                steps=self.epoch_steps,
                losses={name: float(str(line[name])) for name in ("qfl", "dfl", "giou")},
                img_per_s=float(str(line["img_per_s"])),
                data_wait=float(str(line["data_wait"])),
                memory_bytes=int(peak * 1e9) or None,
                eta_s=left * self.totals[1] / self.totals[0],
                skipped=int(float(str(line["skipped"]))),
            )
        )


def grouped(loader: Iterator[LoadedBatch], size: int, log: StepLog) -> Iterator[list[LoadedBatch]]:
    """Batches in groups of `size` (the last may be smaller); the wait for each is noted in the log."""
    log.started = time.perf_counter()
    while True:
        asked = time.perf_counter()
        group = list(islice(loader, size))
        log.waited += time.perf_counter() - asked
        if not group:
            return
        yield group


def initial_variables(cfg: RunConfig) -> tuple[Variables, str]:
    """Random variables, with those of CHECKPOINT in their place; and a line that says what was taken."""
    variables = detector.init(cfg.detector, cfg.seed)
    if cfg.checkpoint is None:
        return variables, f"random weights, seed {cfg.seed}"
    if cfg.checkpoint == "torchvision":
        file = fetch_torchvision(cfg.detector.backbone.depth)
    else:
        file = read_checkpoint(cfg.checkpoint)
    variables, report = fit(variables, file.state, source=cfg.checkpoint)
    changed = ", ".join(f"{m.path.removeprefix('bbox_head.')} ({m})" for m in report.reinitialised[:4])
    return variables, ", ".join(
        part
        for part in (
            f"{file.path.name}: {len(report.kept)} tensors kept",
            f"re-initialised {changed}" if changed else "",
            f"{len(report.missing)} not in the file" if report.missing else "",
            f"{len(report.left_over)} left over" if report.left_over else "",
        )
        if part
    )


def print_head(run: Training) -> None:
    """What is about to be trained, on what, in which shapes."""
    cfg, data = run.cfg, run.data
    counted = progress.counted

    def line(label: str, *parts: str) -> None:
        run.out.line(progress.headline(label, *parts))

    scale = f"loss scale {cfg.loss_scale}" if cfg.precision == "o1" else ""
    run.out.line(
        " | ".join(
            part
            for part in (
                f"GFLV2 {__version__}",
                f"torch {torch.__version__}",
                describe(run.device),
                f"{cfg.precision} {scale}".strip(),
                f"seed {cfg.seed}",
            )
        )
    )
    boxes = Counter(dict.fromkeys(data.names, 0))
    for picture in data.pictures:
        boxes.update(data.names[label] for label in picture.labels.tolist())
    total = sum(boxes.values())
    line(
        "data",
        f"train {counted(len(data.pictures), 'image')} {counted(total, 'box', 'boxes')} {progress.class_shares(boxes)}",
        f"{data.without_boxes} without boxes, {data.clipped_boxes} boxes clipped, {data.dropped_boxes} dropped",
        f"val {counted(len(run.val.pictures), 'image')}" if run.val else "no validation",
    )
    line("shapes", shapes_text(run.loader, run.canvases), f"boxes padded to {run.loader.box_slots}")
    leaves = flatten(run.state.module.variables())
    parameters = sum(tensor.numel() for tensor in leaves.values() if tensor.is_floating_point())
    backbone = cfg.detector.backbone
    line("model", f"R{backbone.depth}-FPN GFLV2 {parameters / 1e6:.2f} M parameters", run.origin)
    rate = cfg.optim.lr * cfg.batch_size / 16
    line(
        "lr",
        f"{rate:g} ({cfg.optim.lr:g} for 16 images, scaled to {cfg.batch_size})",
        f"{cfg.optim.optimizer}, {cfg.optim.schedule}",
        f"{cfg.optim.warmup_steps} warm-up steps",
        f"{cfg.max_steps} steps" if cfg.max_steps else f"{cfg.epochs} epochs",
    )
    line("run", str(run.folder.path))


def shapes_text(loader: TrainLoader, canvases: tuple[Canvas, ...] | None) -> str:
    """'800x1344 71%  1344x800 29%': the share of each canvas among an epoch's batches."""
    if canvases is None:
        return "each picture's own"
    plan = loader.plan(0)
    shares = Counter(f"{batch.canvas[0]}x{batch.canvas[1]}" for batch in plan)
    return "  ".join(f"{name} {count / len(plan):.0%}" for name, count in shares.most_common())


def read_settings(arguments: argparse.Namespace) -> tuple[ParsedRun, dict[str, object] | None]:
    """The run's settings; with --resume those of its last.pt, changed by what the command line gives."""
    bindings = list(arguments.gin_bindings)
    if arguments.checkpoint is not None:
        bindings.append(f"CHECKPOINT = {str(arguments.checkpoint)!r}")
    if not arguments.resume:
        if not arguments.gin_file:
            raise InputError("got no --gin_file; give one, e.g. --gin_file r50.gin")
        return read_run(arguments.gin_file, bindings), None
    if arguments.workdir is None:
        raise InputError("got --resume without --workdir; give --workdir, the folder of the run to go on with")
    saved = dict(read_state(arguments.workdir / "last.pt"))
    parsed = read_run(arguments.gin_file, bindings) if arguments.gin_file else read_text(str(saved["config"]), bindings)
    return parsed, saved


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.train", description=__doc__)
    flags.add_argument("--gin_file", action="append", default=[], help="a run file; may repeat, later ones win")
    flags.add_argument("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    flags.add_argument("--workdir", type=Path, help="the run's folder (default: runs/<config>/<time>)")
    flags.add_argument("--checkpoint", type=Path, help="weights to start from; wins over CHECKPOINT")
    flags.add_argument("--resume", action="store_true", help="go on from the workdir's last.pt")
    flags.add_argument("--print_config", action="store_true", help="print the settings and stop")
    return flags


def main() -> int:
    arguments = parser().parse_args()
    try:
        parsed, saved = read_settings(arguments)
        if arguments.print_config:
            print(parsed.config_text)
            return 0
        name = Path(arguments.gin_file[-1]).stem if arguments.gin_file else "run"
        with open_run(arguments.workdir, name, resume=arguments.resume) as folder:
            run = Training(parsed, folder, saved)
            folder.write_text("config.gin", parsed.config_text)
            folder.write_environment(sys.argv, {"device": describe(run.device), "precision": run.cfg.precision})
            if saved is not None:
                folder.cut(run.state.cursor.step)
            print_head(run)
            for unused in parsed.unused:
                run.out.line(f"note: nothing uses {unused}")
            train(run)
            print(f"\nthe run is in {folder.path}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; go on with --resume --workdir of this run", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
