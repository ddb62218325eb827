"""Training: `python -m gfl.train --gin_file r50.gin --gin_bindings "DATA_ROOT = 'data/coco'"`.

On several devices or hosts: `torchrun --nproc_per_node N -m gfl.train ...`, with the same arguments.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import NamedTuple

import torch

from gfl.config import ParsedRun, read_run, read_text, with_setting
from gfl.data.check.outlook import Outlook, look_ahead
from gfl.data.classes import category_ids_in, require_same_classes
from gfl.data.coco import CocoData, read_coco
from gfl.data.coco_columns import DetectionColumns, join_columns, sorted_by_image
from gfl.data.loader import EvalLoader, LoadedBatch, TrainLoader
from gfl.data.paths import split_paths
from gfl.data.plan import epoch_settings, fingerprint
from gfl.data.sizes import canvases_for
from gfl.engine.checkpoints import Origin, initial_variables, read_state, stored_settings, write_checkpoint
from gfl.engine.crowded import yielding_on_crowded_cores
from gfl.engine.device import choose_device, describe, expect_shapes, seed_generators
from gfl.engine.faults import Divergence, Learning, StepNumbers
from gfl.engine.heap import keep_freed_memory
from gfl.engine.memory import memory_errors
from gfl.engine.module import DetectorModule
from gfl.engine.precision_choice import PrecisionChoice, agreed_precision, earlier_precision
from gfl.engine.ranks import Ranks, join, pictures_a_rank
from gfl.engine.schedule import RunLength, changed_length, fit_schedule, rate_at, run_length
from gfl.engine.state import TrainState, averaged_leaves, copied, make_state, restore, state_tree, step, without_casts
from gfl.engine.transfer import on_device
from gfl.errors import InputError
from gfl.model import detector
from gfl.record.console import ProgressWriter
from gfl.record.drawing import Drawing, write_training_data
from gfl.record.evaluation import Counting, Evaluated, Evaluations, Judged, may_count_beside_steps
from gfl.record.mirror import Mirror, fetch_run, holds_run, mirrored
from gfl.record.run_data import Splits
from gfl.record.run_end import Spent, end_lines, stopped_text
from gfl.record.run_folder import BEST, EPOCH_FILE, LAST, TEXT_LOG, RunFolder, last_checkpoint, open_run
from gfl.record.run_head import head_lines
from gfl.record.run_report import report_run
from gfl.record.step_log import StepLog, StepNote
from gfl.record.trackers.interface import Started, Tracker, flat_settings
from gfl.record.trackers.opening import open_trackers
from gfl.record.trackers.tracking import Tracking
from gfl.record.trained_on import trained_on
from gfl.report.coco_eval import COCO_LIMIT
from gfl.report.tables import evaluation_report
from gfl.runtime.on_torch.dataset import detect_all
from gfl.runtime.on_torch.pt_file import predictor
from gfl.say import say
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.signals import Stopped, StopRequest, exit_code
from gfl.tensors.precision import policy_of
from gfl.tensors.variables import unflatten
from gfl.words import counted, headline

HEAD_WIDTH = 112  # letters of a line in the head of a run, without its margin
MANY_PICTURES = 200_000  # from which a run says that it looks at them
MOST_GRAPHS = 8  # compiled forms that torch.compile keeps of one function (torch._dynamo.config.recompile_limit)


class RunData(NamedTuple):
    """The pictures of a run, the canvases that hold them, and their batches."""

    train: CocoData
    val: CocoData | None
    val_category_ids: tuple[int, ...]  # label of the training data -> category id of `val`
    canvases: tuple[Canvas, ...] | None  # None: each picture its own
    loader: TrainLoader
    val_loader: EvalLoader | None
    epoch_settings: dict[str, str]  # what decides which pictures are in which batch of an epoch


@dataclass
class Run:
    """What the phases of a run share."""

    cfg: RunConfig  # of `parsed`, with the data set's number of classes and the precision that is used
    parsed: ParsedRun
    precision: PrecisionChoice
    folder: RunFolder | None  # None on every rank but the first
    ranks: Ranks
    console: ProgressWriter
    data: RunData
    state: TrainState
    origin: Origin
    stop: StopRequest
    length: RunLength
    outlook: Outlook | None  # None on every rank but the first
    notes: list[str]  # what a user should know of the schedule
    tracking: Tracking
    evaluation_due: bool = False  # a checkpoint was written, its evaluation not yet done
    saved_step: int = 0  # of last.pt
    evaluations: Evaluations = field(init=False)
    mirror: Mirror | None = None  # None on every rank but the first, and without --storage
    drawing: Drawing | None = None  # None on every rank but the first, and with REPORT = False

    def __post_init__(self) -> None:
        self.evaluations = Evaluations(self.console, self.length.epochs, tracking=self.tracking)
        if self.folder is not None and self.cfg.report:
            self.drawing = Drawing(self.folder.path, self.console.line)


def start(
    parsed: ParsedRun,
    saved: Mapping[str, object] | None,
    folder: RunFolder | None,
    ranks: Ranks,
    stop: StopRequest,
    console: ProgressWriter,
    trackers: Mapping[str, Tracker],
) -> Run:
    """A run before its next step: at step 0, or where the checkpoint `saved` left it."""
    cfg = parsed.run
    device = ranks.local_device(choose_device(cfg.device))
    if device.type == "cpu":
        keep_freed_memory()
    precision = agreed_precision(cfg, device, ranks, None if saved is None else earlier_precision(saved))
    if precision.used != cfg.precision:
        operative = with_setting(parsed.operative_text, "RunConfig", "precision", precision.used)
        cfg, parsed = replace(cfg, precision=precision.used), parsed._replace(operative_text=operative)
    seed_generators(cfg.seed)
    data = open_data(cfg, ranks, pin_memory=device.type != "cpu")
    expect_shapes(device, fixed=data.canvases is not None)
    cfg = cfg.for_classes(len(data.train.names))
    count = len(data.train.pictures)
    if ranks.first and count > MANY_PICTURES:  # it takes more than some seconds
        console.line(headline("look", f"at {counted(count, 'picture')} and their boxes, before the first step"))
    outlook = look_ahead(data.train, cfg.data, cfg.seed, data.val) if ranks.first else None
    length = run_length(cfg, -(-len(data.loader.plan(0)) // cfg.accumulate))
    optim, notes = fit_schedule(cfg.optim, length)
    cfg = replace(cfg, optim=optim)
    if saved is not None:
        require_same_classes(data.train, saved.get("names"))
    state, origin = initial_state(cfg, data, device, ranks, resumed=saved is not None)
    if data.val is not None and data.val.truth.crowd.all():
        notes += ("validation has no boxes: there is nothing to measure, and best.pt will be the last weights",)
    shared = (precision, folder, ranks, console, data, state, origin, stop, length, outlook, list(notes))
    run = Run(cfg, parsed, *shared, Tracking(trackers, console.tell))
    if saved is not None:
        resume(run, saved)
    return run


def open_data(cfg: RunConfig, ranks: Ranks, *, pin_memory: bool) -> RunData:
    """Read the annotations, choose the canvases and make the loaders; no picture is read yet.

    Raises InputError where training and validation name other classes, where CANVASES are too many to be compiled,
    and where a rank reads other annotations than the first.
    """
    train = read_coco(*split_paths(cfg.data, "train"), keep_empty=cfg.data.keep_empty)
    val = read_coco(*split_paths(cfg.data, "val"), keep_empty=True) if cfg.eval_every else None
    val_category_ids = () if val is None else category_ids_in(val, train)
    canvases = canvases_for(train, cfg.data, val=val)
    if cfg.compile and (canvases is None or len(canvases) > MOST_GRAPHS):
        raise InputError(
            f"got COMPILE = {cfg.compile!r} with CANVASES = {cfg.data.canvases!r}, expected at most {MOST_GRAPHS} "
            "canvases: each is compiled anew; set CANVASES = 'auto' or COMPILE = False"
        )
    batch, rank, world = pictures_a_rank(cfg, ranks.world), ranks.rank, ranks.world
    loader = TrainLoader(
        train, cfg.data, canvases, batch_size=batch, seed=cfg.seed, rank=rank, world=world, pin_memory=pin_memory
    )
    val_loader = None
    if val is not None:
        val_loader = EvalLoader(val, cfg.data, canvases, batch_size=batch, rank=rank, world=world, beside=loader)
    checksum = fingerprint(train.pictures)
    if ranks.world > 1:
        for data in (train, val):
            if data is not None:
                summed = checksum if data is train else fingerprint(data.pictures)
                content = f"{len(data.pictures)} pictures (checksum {summed:08x})"
                ranks.check_same(content, data.annotations)
    settings = epoch_settings(checksum, cfg.data, canvases, cfg.batch_size // cfg.accumulate, cfg.seed)
    return RunData(train, val, val_category_ids, canvases, loader, val_loader, settings)


def initial_state(
    cfg: RunConfig, data: RunData, device: torch.device, ranks: Ranks, *, resumed: bool
) -> tuple[TrainState, Origin]:
    """The state at step 0, the same on every rank, and where its weights come from; `resume` replaces them."""
    if resumed:
        variables, origin = detector.init(cfg.detector), Origin("")
    else:
        variables, origin = ranks.broadcast_from_first(
            initial_variables(cfg, data.train.names) if ranks.first else None
        )
    policy = policy_of(cfg.precision, apex=cfg.apex)
    module = DetectorModule(
        variables, cfg.detector, data.canvases or (), device, policy=policy, reduce=ranks.mean, recompute=cfg.recompute
    )
    state = make_state(module, cfg, ranks.maximum)
    state.forward = ranks.synchronised(state.forward)
    return state, origin


def resume(run: Run, saved: Mapping[str, object]) -> None:
    """Put a checkpoint's state back. InputError where the epoch that it stopped in would go on with other batches."""
    restore(run.state, saved)
    thresholds = saved.get("score_thresholds")
    run.evaluations.judged = Judged(
        best=float(str(saved["best"])),
        best_step=int(str(saved.get("best_step", 0))),
        stale=int(str(saved.get("stale", 0))),
        score_thresholds=tuple(thresholds) if isinstance(thresholds, list) else None,
    )
    run.evaluation_due = bool(saved.get("evaluation_due"))
    run.saved_step = run.state.cursor.step
    run.origin = Origin(f"resumed at step {run.saved_step:,}")
    earlier, at = read_text(str(saved["config"])).run, run.state.cursor
    done = at.epoch + at.batch / len(run.data.loader.plan(at.epoch))
    if change := changed_length(earlier, run.cfg, at.step, at.epoch, done):
        run.notes.append(change)
    cursor, before = run.state.cursor, saved.get("epoch_settings")
    if cursor.batch == 0 or not isinstance(before, dict):
        return
    for name, now in run.data.epoch_settings.items():
        if before[name] != now:
            raise InputError(
                f"got {name} = {now} where the run stopped with {before[name]} in the middle of epoch "
                f"{cursor.epoch + 1}, expected the same until that epoch's end: some of its pictures would come "
                "twice, others never; take the change back, or start a run of its own with --checkpoint"
            )


def train(run: Run) -> StepLog:
    """The whole run: epochs of steps, a log line a step, an evaluation and a checkpoint an epoch."""
    cfg, state, cursor = run.cfg, run.state, run.state.cursor
    epochs, settle = run.length.epochs, run.evaluations.settle
    log = StepLog(cfg, state, run.folder, run.console, run.ranks, epochs, settle, run.tracking)
    divergence, learning = Divergence(loss_scale=state.loss_scale is not None), Learning()

    def judge(steps: list[StepNumbers], *, epoch_ended: bool = False) -> None:
        divergence.check(steps)
        if cursor.epoch == 0:
            learning.check(steps, log.read, log.not_read, next(iter(log.passed_over), ""), epoch_ended=epoch_ended)

    if run.evaluation_due:  # the run was stopped before it was done
        validate(run)
        run.evaluations.settle()  # the loader is about to start its workers, which a thread must not disturb
    operative_written = False
    while not ended(run):
        plan = run.data.loader.plan(cursor.epoch)
        log.begin_epoch(-(-len(plan) // cfg.accumulate))
        batches = on_device(run.data.loader.batches(plan[cursor.batch :]), state.module.device)
        for group in grouped(batches, cfg.accumulate, log):
            rate = rate_at(cfg, cursor.step, cursor.epoch, cursor.epoch + cursor.batch / len(plan))
            with memory_errors(group[0].canvas, run.data.loader.batch_size):
                metrics = step(state, [loaded.batch for loaded in group], rate, cfg.optim)
            cursor.batch += len(group)
            height, width = group[0].canvas
            written = log.add(
                StepNote(cursor.step, cursor.epoch, rate, f"{height}x{width}"),
                metrics,
                sum(image >= 0 for loaded in group for image in loaded.image_ids),
                [reason for loaded in group for reason in loaded.failed],
            )
            judge(written)
            run.stop.defer()  # from here on there is a step to save
            if run.folder is not None and not operative_written:
                run.folder.write_text("operative.gin", run.parsed.operative_text)
                operative_written = True
            # Several ranks agree where the log makes them meet anyway.
            if enough_steps(run) or ((written or run.ranks.world == 1) and asked_to_stop(run)):
                break
            # Not after the epoch's last batch: that is saved below, as the beginning of the next epoch.
            if cfg.save_every and cursor.step % cfg.save_every == 0 and cursor.batch < len(plan):
                judge(log.flush())
                save(run, LAST)
        judge(log.flush(), epoch_ended=cursor.batch >= len(plan))
        if cursor.batch >= len(plan):
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0
            keep_epoch(run)
        run.evaluation_due = run.data.val is not None and (
            ended(run) or (cursor.batch == 0 and cursor.epoch % cfg.eval_every == 0)
        )
        save(run, LAST)  # before an evaluation, which takes its time and may fail
        if not ended(run) or run.evaluation_due:
            stop_if_asked(run)
        if run.evaluation_due:
            validate(run)
    if run.data.val is None:
        run.evaluations.judged = run.evaluations.judged._replace(best_step=cursor.step)
        save(run, BEST)
    return log


def enough_steps(run: Run) -> bool:
    """Whether MAX_STEPS ends the run here."""
    return 0 < run.cfg.max_steps <= run.state.cursor.step


def ended(run: Run) -> bool:
    """Whether there is no step left to do: the run has its length, or PATIENCE is over."""
    if 0 < run.cfg.patience <= run.evaluations.judged.stale:
        return True
    return enough_steps(run) if run.cfg.max_steps else run.state.cursor.epoch >= run.cfg.epochs


def asked_to_stop(run: Run) -> int:
    """The signal that asked any rank to stop, or 0. Every rank must call it."""
    number = torch.tensor(run.stop.number, device=run.state.module.device if run.ranks.world > 1 else "cpu")
    return int(run.ranks.maximum(number))


def stop_if_asked(run: Run) -> None:
    """Raise Stopped, on every rank, where any was asked to stop."""
    number = asked_to_stop(run)
    if number:
        run.ranks.leave()  # while the first rank writes, none may be gone
        raise Stopped(number)


def until_stop(loader: EvalLoader, stop: StopRequest) -> Iterator[LoadedBatch]:
    """The loader's batches, until a signal asks to stop."""
    return takewhile(lambda _: not stop.number, loader)


def validate(run: Run) -> None:
    """Evaluate the averaged weights, each rank its share; the first counts, records, keeps the best, and saves."""
    val, val_loader = run.data.val, run.data.val_loader
    if val is None or val_loader is None:
        return
    with without_casts(run.state):
        predict = predictor(unflatten(averaged_leaves(run.state)), run.cfg.detector, run.state.module.device)
        share = detect_all(predict, until_stop(val_loader, run.stop), run.data.val_category_ids)
    stop_if_asked(run)  # last.pt knows that the evaluation is due
    shares = run.ranks.gather_at_first(share)
    run.evaluation_due = False
    if run.folder is not None:
        for reason in chain.from_iterable(failed for _, failed in shares):
            run.console.tell(f"without detections: {reason}")
        results = sorted_by_image(join_columns(results for results, _ in shares))
        count_and_record(run, run.folder, val, results)
    if run.cfg.patience:  # without it, what the evaluations said is the first rank's alone
        judged = run.evaluations.judged
        run.evaluations.judged = run.ranks.broadcast_from_first(judged if run.ranks.first else None)


def count_and_record(run: Run, folder: RunFolder, val: CocoData, results: DetectionColumns) -> None:
    """Count the detections of all ranks and write what follows: at once, or beside the next steps."""
    limit = max(COCO_LIMIT, run.cfg.detector.predict.max_detections)
    counting = Counting(folder, val.truth, run.data.val_category_ids, limit)
    beside_steps = not ended(run) and may_count_beside_steps(run.cfg, run.state.module.device)
    tree = copied(checkpoint_tree(run)) if beside_steps else checkpoint_tree(run)

    def save_evaluated(name: str, judged: Judged) -> None:
        write(run, folder, name, tree, judged, False)

    evaluated = Evaluated(run.state.cursor.step, run.state.cursor.epoch, results, save_evaluated)
    if beside_steps:
        run.evaluations.begin(evaluated, counting)
        refresh_curves(run)
        return
    outcome = run.evaluations.record(evaluated, counting)
    stale, patience = outcome.judged.stale, run.cfg.patience
    if 0 < patience <= stale:
        run.console.tell(f"ended early: {stale} evaluations without a higher AP (PATIENCE = {patience})")
    if ended(run):
        run.console.line("")
        run.console.line(evaluation_report(outcome.metrics))
    else:
        refresh_curves(run)


def refresh_curves(run: Run) -> None:
    """Draw the course of the run so far, if it is time."""
    if run.drawing is not None:
        run.drawing.refresh_curves(run.cfg.batch_size)


def draw_training_data(run: Run) -> None:
    """Draw what the network is fed, before it is: the first look for whatever is wrong with data or augmentation."""
    if run.drawing is not None and run.folder is not None:
        write = partial(write_training_data, run.folder.path, run.cfg, run.data.train, run.data.val)
        run.drawing.attempt("labels.png and train_batch*.jpg", write)


def write_report(run: Run) -> None:
    """Write what people look at after a run."""
    if run.drawing is not None and run.folder is not None:
        folder, splits = run.folder.path, Splits(run.data.train, run.data.val)

        def draw() -> None:
            with run.stop.at_once():
                report_run(folder, splits)

        run.drawing.attempt_at_end("the report", draw)


def save(run: Run, name: str) -> None:
    """Write a checkpoint; every rank has the same state, the first writes."""
    run.evaluations.settle()
    if run.folder is not None:
        write(run, run.folder, name, checkpoint_tree(run), run.evaluations.judged, run.evaluation_due)
    if run.mirror is not None and (news := run.mirror.news()):
        run.console.tell(news)
    if name == LAST:
        run.saved_step = run.state.cursor.step


def keep_epoch(run: Run) -> None:
    """Write the weights of the epoch that ended for `gfl.average`, and remove those that are no longer of KEEP_LAST."""
    if run.folder is None or not run.cfg.keep_last:
        return
    epoch, folder = run.state.cursor.epoch, run.folder.path
    weights = {name: value for name, value in checkpoint_tree(run).items() if name != "optimiser"}
    write_checkpoint(folder / f"epoch_{epoch}.pt", weights)
    for path in folder.glob("*.pt"):
        found = re.fullmatch(EPOCH_FILE, path.name)
        if found is not None and int(found[1]) <= epoch - run.cfg.keep_last:
            path.unlink(missing_ok=True)


def checkpoint_tree(run: Run) -> dict[str, object]:
    """The state, and what rebuilds the model from the file alone."""
    data = run.data
    return {
        **state_tree(run.state),
        "config": run.parsed.config_text,
        "operative": run.parsed.operative_text,
        "precision": run.cfg.precision,  # `config` says what was asked, this what was used
        "names": list(data.train.names),
        "category_ids": list(data.train.category_ids),
        "trained_on": trained_on(data.train, data.val),
        "epoch_settings": data.epoch_settings,
        "canvases": None if data.canvases is None else [list(canvas) for canvas in data.canvases],
    }


def write(
    run: Run, folder: RunFolder, name: str, tree: Mapping[str, object], judged: Judged, evaluation_due: bool
) -> None:
    """Write a `checkpoint_tree` with what the evaluations have said."""
    thresholds = judged.score_thresholds
    said = {**judged._asdict(), "score_thresholds": None if thresholds is None else list(thresholds)}
    write_checkpoint(folder.path / name, {**tree, **said, "evaluation_due": evaluation_due})
    if run.mirror is not None:
        run.mirror.update()


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
    """The run's settings; with --resume those of its last.pt, changed by what the command line gives.

    `--resume auto` is settled here: afterwards `arguments.resume` says whether the run goes on.
    """
    bindings = list(arguments.gin_bindings)
    if arguments.checkpoint is not None:
        bindings.append(f"CHECKPOINT = {str(arguments.checkpoint)!r}")
    if arguments.storage is not None:
        prepare_storage(arguments)
    restarted = arguments.resume == "auto"  # by the command that began it
    if restarted and arguments.workdir is not None and not (arguments.workdir / LAST).is_file():
        arguments.resume = None
    if not arguments.resume:
        if not arguments.gin_file:
            raise InputError("got no --gin_file; give one, e.g. --gin_file r50.gin")
        return read_run(arguments.gin_file, bindings, stored_settings), None
    last = last_checkpoint(arguments.workdir)
    if arguments.checkpoint is not None and not restarted:
        raise InputError(
            f"got --resume with --checkpoint {arguments.checkpoint}, expected one of them: --resume goes on from "
            "the workdir's last.pt; start a run of its own to begin with other weights"
        )
    saved = dict(read_state(last))
    if arguments.gin_file:
        return read_run(arguments.gin_file, bindings, stored_settings), saved
    return read_text(str(saved["config"]), bindings), saved


def prepare_storage(arguments: argparse.Namespace) -> None:
    """Fetch what a run goes on with; InputError where another run is in the storage of a new one."""
    if arguments.resume:
        if arguments.workdir is not None:  # else it is asked for where the settings are read
            fetch_run(arguments.storage, arguments.workdir)
    elif not arguments.print_config and holds_run(arguments.storage):
        raise InputError(f"--storage {arguments.storage} holds a run; give --resume or another --storage")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.train", description=__doc__)
    flags.add_argument("--gin_file", action="append", default=[], help="a run file; may repeat, later ones win")
    flags.add_argument("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    flags.add_argument("--workdir", type=Path, help="the run's folder (default: runs/<config>/<time>)")
    flags.add_argument("--checkpoint", type=Path, help="weights to start from; wins over CHECKPOINT")
    flags.add_argument(
        "--resume",
        nargs="?",
        const="always",
        choices=["always", "auto"],
        help="go on from the workdir's last.pt; 'auto': where there is one, and begin where there is none",
    )
    flags.add_argument("--storage", help="keep a copy of the run's folder there (s3://bucket/run), and resume from it")
    flags.add_argument("--quiet", action="store_true", help="print notes and the end alone; train.log has everything")
    flags.add_argument("--print_config", action="store_true", help="print the settings and stop")
    return flags


def launch(arguments: argparse.Namespace, command: Sequence[str], ranks: Ranks, stop: StopRequest) -> None:
    """One run from its settings to its end; the first rank reads them and owns the folder."""
    parsed, saved = ranks.broadcast_from_first(read_settings(arguments) if ranks.first else None)
    if arguments.print_config:
        if ranks.first:
            print_config(parsed)
        return
    began = time.perf_counter()
    trackers = open_trackers(parsed.run.trackers) if ranks.first else {}
    name = Path(arguments.gin_file[-1]).stem if arguments.gin_file else "run"
    resume = arguments.resume is not None
    with (
        open_run(arguments.workdir, name, resume=resume) if ranks.first else nullcontext() as folder,
        mirrored(None if folder is None else folder.path, arguments.storage) as mirror,
    ):
        log = None if folder is None else folder.path / TEXT_LOG
        console = ProgressWriter(sys.stdout if ranks.first else None, log=log, quiet=arguments.quiet)
        run: Run | None = None
        try:
            run = start(parsed, saved, folder, ranks, stop, console, trackers)
            run.mirror = mirror
            if folder is not None:
                folder.write_text("config.gin", parsed.config_text)
                resumed_at = None if saved is None else run.state.cursor.step
                if resumed_at is None or run.evaluation_due or not ended(run):  # else it computes nothing
                    folder.write_environment(command, environment_fields(run, parsed), resumed_at=resumed_at)
                if resumed_at is not None:
                    folder.cut(resumed_at, evaluated=not run.evaluation_due)
                console.log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {parser().prog} {shlex.join(command[1:])}")
                print_head(run, folder)
                draw_training_data(run)
            on_cpu = run.state.module.device.type == "cpu"
            waiting = yielding_on_crowded_cores() if on_cpu else nullcontext()
            with closing(console), tracked(run), run.evaluations, waiting:
                steps = train(run)
        except KeyboardInterrupt as stopped:
            stopped.args = (how_to_go_on(run, folder, arguments.workdir),)
            console.log_end(f"stopped{stopped}")
            raise
        except Exception as error:
            console.log_end(f"error: {error}" if isinstance(error, InputError) else traceback.format_exc())
            raise
        if folder is not None:
            write_report(run)
            best, best_step = what_is_best(run), run.evaluations.judged.best_step
            spent = Spent(steps.read, steps.seconds, time.perf_counter() - began)
            for text in end_lines(folder.path, best, best_step, spent, run.data.train, run.data.val):
                console.tell(text)


def tracked(run: Run) -> AbstractContextManager[None]:
    """The block in which the run's trackers are told of it."""
    if run.folder is None:
        return nullcontext()
    begun = Started(run.folder.path, flat_settings(run.cfg), run.state.cursor.step)
    return run.tracking.of(begun, run.console.line)


def environment_fields(run: Run, parsed: ParsedRun) -> dict[str, object]:
    """What env.json says of a run beside the machine."""
    fields = {"device": describe(run.state.module.device), "precision": run.cfg.precision, "ranks": run.ranks.world}
    if run.precision.reason:
        fields |= {"precision_asked": parsed.run.precision, "precision_reason": run.precision.reason}
    return fields


def what_is_best(run: Run) -> str:
    """What best.pt holds, in words."""
    if run.data.val is None:
        return f"the last weights ({run.evaluations.judged.best_step:,} steps): nothing was evaluated"
    best, best_step = run.evaluations.judged.best, run.evaluations.judged.best_step
    if best < 0:
        return f"the last weights ({best_step:,} steps): validation has no boxes, so there is nothing to measure"
    return f"the weights after {counted(best_step, 'step')}, AP {100 * best:.1f}"


def print_config(parsed: ParsedRun) -> None:
    """The settings that a run would use."""
    say(parsed.config_text)
    for unused in parsed.unused:
        say(f"# note: nothing uses {unused}")


def how_to_go_on(run: Run | None, folder: RunFolder | None, workdir: Path | None) -> str:
    """What an interrupted run leaves to go on with. workdir: of the command line; other ranks know no more."""
    path = workdir if folder is None else folder.path
    if folder is None or (run is None and (folder.path / LAST).is_file()):
        return f"; go on with --resume --workdir {'of this run' if path is None else path}"
    if run is not None and (folder.path / LAST).is_file():
        launcher = "python" if run.ranks.world == 1 else "torchrun ..."
        return stopped_text(folder.path, run.saved_step, run.evaluations.judged, launcher)
    return " before its first checkpoint; start again, in the same folder too (SAVE_EVERY = N saves every N steps)"


def print_head(run: Run, folder: RunFolder) -> None:
    """What a run says before its first step."""
    data, outlook = run.data, run.outlook
    if outlook is not None:
        module = run.state.module
        for text in head_lines(run.cfg, module, data.loader, data.val, run.origin, outlook, run.length, run.precision):
            (run.console.tell if text.startswith("note") else run.console.line)(text)
    for note in run.notes:
        run.console.tell(headline("note", note))
    if run.ranks.world > 1:
        share = counted(run.data.loader.batch_size, "image") + " each"
        run.console.line(headline("ranks", f"{run.ranks.world} over {run.ranks.backend}", share))
    run.console.line(headline("run", str(folder.path)))
    if run.parsed.taken:
        settings = textwrap.wrap(", ".join(run.parsed.taken), HEAD_WIDTH, break_on_hyphens=False)
        run.console.line(headline("taken", f"{len(run.parsed.taken)} settings from {run.cfg.checkpoint}:"))
        for line in settings:
            run.console.line(headline("", line))
    for unused in run.parsed.unused:
        run.console.tell(f"note: nothing uses {unused}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; 0, 2 on a user's mistake, 128 and its number where a signal ends the run."""
    arguments = parser().parse_args(argv)
    command = sys.argv if argv is None else [parser().prog, *argv]
    ranks = Ranks()
    with StopRequest() as stop:
        try:
            ranks = join()
            launch(arguments, command, ranks, stop)
            ranks.leave()
        except InputError as error:
            return ranks.fail(f"error: {error}", 2)
        except KeyboardInterrupt as stopped:
            return ranks.fail(f"\nstopped{stopped}", exit_code(stopped))
        except Exception:
            if ranks.world == 1:
                raise
            return ranks.fail(f"rank {ranks.rank} of {ranks.world}:\n{traceback.format_exc()}", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
