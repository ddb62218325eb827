"""Training: `python -m gfl.train --gin_file r50.gin --gin_bindings "DATA_ROOT = 'data/coco'"`.

On several devices or hosts: `torchrun --nproc_per_node N -m gfl.train ...`, with the same arguments.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from gfl.config import ParsedRun, read_run, read_text
from gfl.data.coco import read_coco
from gfl.data.loader import EvalLoader, LoadedBatch, TrainLoader, canvases_for
from gfl.data.paths import split_paths
from gfl.data.plan import epoch_settings, fingerprint
from gfl.engine.checkpoints import Origin, initial_variables, read_state, write_checkpoint
from gfl.engine.device import choose_device, describe, seed_generators
from gfl.engine.faults import Divergence
from gfl.engine.module import DetectorModule
from gfl.engine.optim import learning_rate
from gfl.engine.ranks import Ranks, join, pictures_a_rank
from gfl.engine.state import TrainState, averaged_leaves, make_state, restore, state_tree, step, without_casts
from gfl.errors import InputError
from gfl.model import detector
from gfl.record import console as progress
from gfl.record.run_folder import LAST, RunFolder, last_checkpoint, open_run
from gfl.record.run_head import head_lines
from gfl.record.step_log import StepLog, StepNote
from gfl.report.coco_eval import evaluate_detections
from gfl.report.tables import evaluation_report
from gfl.report.words import counted, headline
from gfl.runtime.on_torch.dataset import detect_all, sorted_by_image
from gfl.runtime.on_torch.pt_file import predictor
from gfl.tensors.precision import policy_of
from gfl.tensors.variables import unflatten

MOST_GRAPHS = 8  # compiled forms that torch.compile keeps of one function (torch._dynamo.config.recompile_limit)


class Training:
    """What a run holds on to between its phases; `train` below reads top to bottom."""

    def __init__(
        self, parsed: ParsedRun, folder: RunFolder | None, saved: Mapping[str, object] | None, ranks: Ranks
    ) -> None:
        self.parsed, self.folder, self.ranks, cfg = parsed, folder, ranks, parsed.run
        self.out = progress.ProgressWriter(sys.stdout if ranks.first else None)
        self.batch = pictures_a_rank(cfg, ranks.world)
        self.device = ranks.local_device(choose_device(cfg.device))
        seed_generators(cfg.seed)
        self.data = read_coco(*split_paths(cfg.data, "train"), keep_empty=cfg.data.keep_empty)
        self.val = read_coco(*split_paths(cfg.data, "val"), keep_empty=True) if cfg.eval_every else None
        if self.val is not None and self.val.names != self.data.names:
            raise InputError(
                f"{self.val.annotations} names the classes {self.val.names[:5]}, {self.data.annotations} "
                f"{self.data.names[:5]}; give training and validation the same categories"
            )
        self.cfg = replace(cfg, detector=replace(cfg.detector, num_classes=len(self.data.names)))
        self.canvases = canvases_for(self.data, cfg.data, val=self.val)
        if cfg.compile and (self.canvases is None or len(self.canvases) > MOST_GRAPHS):
            raise InputError(
                f"got COMPILE = True with CANVASES = {cfg.data.canvases!r}, expected at most {MOST_GRAPHS} canvases: "
                "each is compiled anew; set CANVASES = 'auto' or COMPILE = False"
            )
        self.loader = TrainLoader(
            self.data,
            cfg.data,
            self.canvases,
            batch_size=self.batch,
            seed=cfg.seed,
            rank=ranks.rank,
            world=ranks.world,
            pin_memory=self.device.type != "cpu",
        )
        checksum = fingerprint(self.data.pictures)
        if ranks.world > 1:
            checksums = [(self.data, checksum)]
            if self.val is not None:
                checksums.append((self.val, fingerprint(self.val.pictures)))
            for data, found in checksums:
                ranks.check_same(f"{len(data.pictures)} pictures (checksum {found:08x})", data.annotations)
        together = cfg.batch_size // cfg.accumulate  # pictures of a batch, over all ranks
        self.epoch_settings = epoch_settings(checksum, cfg.data, self.canvases, together, cfg.seed)
        self.state, self.origin = self._initial_state(resumed=saved is not None)
        self.best, self.evaluation_due = -1.0, False
        if saved is not None:
            restore(self.state, saved)
            self._check_same_epoch(saved)
            self.best, self.evaluation_due = float(str(saved["best"])), bool(saved.get("evaluation_due"))
            self.origin = Origin(f"resumed at step {self.state.cursor.step:,}")
        self.val_loader = self._val_loader()

    def _initial_state(self, *, resumed: bool) -> tuple[TrainState, Origin]:
        """The state at step 0, the same on every rank, and where its weights come from."""
        cfg, ranks = self.cfg, self.ranks
        if resumed:
            variables, origin = detector.init(cfg.detector), Origin("")
        else:
            variables, origin = ranks.broadcast_from_first(lambda: initial_variables(cfg))
        policy = policy_of(cfg.precision, apex=cfg.apex)
        module = DetectorModule(variables, cfg.detector, self.canvases or (), self.device, policy=policy, reduce=ranks.mean)
        state = make_state(module, cfg, ranks.maximum)
        state.forward = ranks.synchronised(state.forward)
        return state, origin

    def _check_same_epoch(self, saved: Mapping[str, object]) -> None:
        """Raise InputError where a run goes on in the middle of an epoch whose batches are other ones now."""
        cursor, before = self.state.cursor, saved.get("epoch_settings")
        if cursor.batch == 0 or not isinstance(before, dict):
            return
        for name, now in self.epoch_settings.items():
            if before[name] != now:
                raise InputError(
                    f"got {name} = {now} where the run stopped with {before[name]} in the middle of epoch "
                    f"{cursor.epoch + 1}, expected the same until that epoch's end: some of its pictures would come "
                    "twice, others never; take the change back, or start a run of its own with --checkpoint"
                )

    def _val_loader(self) -> EvalLoader | None:
        if self.val is None:
            return None
        rank, world = self.ranks.rank, self.ranks.world
        return EvalLoader(self.val, self.cfg.data, self.canvases, batch_size=self.batch, rank=rank, world=world)


def train(run: Training) -> None:
    """The whole run: epochs of steps, a log line a step, an evaluation and a checkpoint an epoch."""
    cfg, cursor = run.cfg, run.state.cursor
    log = StepLog(cfg, run.state, run.folder, run.out, run.ranks)
    divergence = Divergence(loss_scale=run.state.loss_scale is not None)
    started = cursor.step
    if run.evaluation_due:  # the run was stopped before it was done
        validate(run)
    while not ended(run):
        batches_in_epoch = len(run.loader.plan(cursor.epoch))
        log.begin_epoch(-(-batches_in_epoch // cfg.accumulate))
        for group in grouped(run.loader.epoch(cursor.epoch, cursor.batch), cfg.accumulate, log):
            share = (cursor.epoch + cursor.batch / batches_in_epoch) / cfg.epochs
            rate = learning_rate(
                cfg.optim,
                cfg.batch_size,
                cursor.step,
                cursor.epoch,
                cursor.step / cfg.max_steps if cfg.max_steps else share,
            )
            batches = [
                type(loaded.batch)(*(part.to(run.device, non_blocking=True) for part in loaded.batch))
                for loaded in group
            ]
            metrics = step(run.state, batches, rate, cfg.optim)
            cursor.batch += len(group)
            height, width = group[0].canvas
            written = log.add(
                StepNote(cursor.step, cursor.epoch, rate, f"{height}x{width}"),
                metrics,
                sum(image >= 0 for loaded in group for image in loaded.image_ids),
                (reason for loaded in group for reason in loaded.failed),
            )
            divergence.check(written)
            if cursor.step == started + 1 and run.folder is not None:
                run.folder.write_text("operative.gin", run.parsed.operative_text)
            if enough_steps(run):
                break
            # Not after the epoch's last batch: that is saved below, as the beginning of the next epoch.
            if cfg.save_every and cursor.step % cfg.save_every == 0 and cursor.batch < batches_in_epoch:
                divergence.check(log.flush())
                save(run, LAST)
        divergence.check(log.flush())
        if cursor.batch >= batches_in_epoch:
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0
        run.evaluation_due = run.val_loader is not None and (
            ended(run) or (cursor.batch == 0 and cursor.epoch % cfg.eval_every == 0)
        )
        save(run, LAST)  # before an evaluation, which takes its time and may fail
        if run.evaluation_due:
            validate(run)


def enough_steps(run: Training) -> bool:
    """Whether MAX_STEPS ends the run here."""
    return 0 < run.cfg.max_steps <= run.state.cursor.step


def ended(run: Training) -> bool:
    """Whether there is no step left to do."""
    return run.state.cursor.epoch >= run.cfg.epochs or enough_steps(run)


def validate(run: Training) -> None:
    """Evaluate the averaged weights, each rank its share; the first counts, records, keeps the best, and saves."""
    if run.val is None or run.val_loader is None:
        return
    with without_casts(run.state):
        predict = predictor(unflatten(averaged_leaves(run.state)), run.cfg.detector, run.device)
        shares = run.ranks.gather_at_first(detect_all(predict, run.val_loader, run.val.category_ids))
    run.evaluation_due = False
    if run.folder is None:
        return
    results = sorted_by_image(chain.from_iterable(results for results, _ in shares))
    for reason in chain.from_iterable(failed for _, failed in shares):
        run.out.line(f"without detections: {reason}")
    metrics = evaluate_detections(run.val.annotations, results)
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
    save(run, LAST)
    summary = metrics.summary()
    epoch = max(cursor.epoch, 1)
    run.out.line(progress.validation_line(epoch, run.cfg.epochs, summary, "best.pt" if better else None))
    if ended(run):
        run.out.line("")
        run.out.line(evaluation_report(metrics))


def save(run: Training, name: str) -> None:
    """Write the state and what rebuilds the model from the file alone; every rank has the same, the first writes."""
    if run.folder is None:
        return
    tree = {
        **state_tree(run.state),
        "best": run.best,
        "evaluation_due": run.evaluation_due,
        "config": run.parsed.config_text,
        "operative": run.parsed.operative_text,
        "names": list(run.data.names),
        "category_ids": list(run.data.category_ids),
        "epoch_settings": run.epoch_settings,
        "canvases": None if run.canvases is None else [list(canvas) for canvas in run.canvases],
    }
    write_checkpoint(run.folder.path / name, tree)


def grouped(loader: Iterator[LoadedBatch], size: int, log: StepLog) -> Iterator[list[LoadedBatch]]:
    """Batches in groups of `size` (the last may be smaller); the wait for each is noted in the log."""
    while True:
        asked = time.perf_counter()
        group = list(islice(loader, size))
        log.waited_s += time.perf_counter() - asked
        if not group:
            return
        yield group


def read_settings(arguments: argparse.Namespace) -> tuple[ParsedRun, dict[str, object] | None]:
    """The run's settings; with --resume those of its last.pt, changed by what the command line gives."""
    bindings = list(arguments.gin_bindings)
    if arguments.checkpoint is not None:
        bindings.append(f"CHECKPOINT = {str(arguments.checkpoint)!r}")
    if not arguments.resume:
        if not arguments.gin_file:
            raise InputError("got no --gin_file; give one, e.g. --gin_file r50.gin")
        return read_run(arguments.gin_file, bindings), None
    last = last_checkpoint(arguments.workdir)
    if arguments.checkpoint is not None:
        raise InputError(
            f"got --resume with --checkpoint {arguments.checkpoint}, expected one of them: --resume goes on from "
            "the workdir's last.pt; start a run of its own to begin with other weights"
        )
    saved = dict(read_state(last))
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


def launch(arguments: argparse.Namespace, command: Sequence[str], ranks: Ranks) -> None:
    """One run from its settings to its end; the first rank reads them and owns the folder."""
    parsed, saved = ranks.broadcast_from_first(lambda: read_settings(arguments))
    if arguments.print_config:
        if ranks.first:
            print(parsed.config_text)
            for unused in parsed.unused:
                print(f"# note: nothing uses {unused}")
        return
    name = Path(arguments.gin_file[-1]).stem if arguments.gin_file else "run"
    with open_run(arguments.workdir, name, resume=arguments.resume) if ranks.first else nullcontext() as folder:
        run = Training(parsed, folder, saved, ranks)
        if folder is not None:
            folder.write_text("config.gin", parsed.config_text)
            about = {"device": describe(run.device), "precision": run.cfg.precision, "ranks": ranks.world}
            folder.write_environment(command, about)
            if saved is not None:
                folder.cut(run.state.cursor.step, evaluated=not run.evaluation_due)
            tell_head(run, folder)
        try:
            train(run)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_go_on(folder)) from None
        finally:
            run.out.close()
        if folder is not None:
            run.out.line(f"\nthe run is in {folder.path}")


def how_to_go_on(folder: RunFolder | None) -> str:
    """What a run that is interrupted leaves to go on with."""
    if folder is None or (folder.path / LAST).is_file():
        return "; go on with --resume --workdir " + ("of this run" if folder is None else str(folder.path))
    return " before its first checkpoint; start again in another folder (SAVE_EVERY = N saves every N steps)"


def tell_head(run: Training, folder: RunFolder) -> None:
    """What a run says before its first step."""
    for text in head_lines(run.cfg, run.state.module, run.loader, run.val, run.origin):
        run.out.line(text)
    if run.ranks.world > 1:
        share = counted(run.batch, "image") + " each"
        run.out.line(headline("ranks", f"{run.ranks.world} over {run.ranks.backend}", share))
    run.out.line(headline("run", str(folder.path)))
    for unused in run.parsed.unused:
        run.out.line(f"note: nothing uses {unused}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; 0, 2 on a user's mistake, 130 when interrupted."""
    arguments = parser().parse_args(argv)
    command = sys.argv if argv is None else [parser().prog, *argv]
    ranks = Ranks()
    try:
        ranks = join()
        launch(arguments, command, ranks)
        ranks.leave()
    except InputError as error:
        return ranks.fail(f"error: {error}", 2)
    except KeyboardInterrupt as stop:
        return ranks.fail(f"\nstopped{stop}", 130)
    except Exception:
        if ranks.world == 1:
            raise
        return ranks.fail(f"rank {ranks.rank} of {ranks.world}:\n{traceback.format_exc()}", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
