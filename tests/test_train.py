"""`python -m gfl.train`: what a run leaves behind, exact resume, finetuning, precisions, the command line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import STEPS_AN_EPOCH, assert_equal_bits, log_lines, run_training, train_arguments

from gfl import train
from gfl.config import read_run, read_text
from gfl.data import paths
from gfl.engine.checkpoints import load_trained, read_state
from gfl.engine.weights import read_checkpoint
from gfl.errors import InputError
from gfl.record import evaluation
from gfl.report.best_f1 import BestF1, score_thresholds
from gfl.runtime.on_torch.pt_file import describe
from gfl.settings import RunConfig
from gfl.tensors.variables import flatten

FILES = {
    "config.gin",
    "operative.gin",
    "env.json",
    "log.jsonl",
    "train.log",
    "results.csv",
    "last.pt",
    "best.pt",
    "val_detections.json",
    "metrics.json",
}
STEP_FIELDS = {"step", "epoch", "loss", "qfl", "dfl", "giou", "lr", "img_per_s", "data_wait", "skipped", "canvas"}
SPEEDS = {"img_per_s", "data_wait"}
SUMMARY = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
EPOCHS = 2
# Two epochs of four steps; a checkpoint after steps 2, 4 (the first epoch's end), 6 and 8.
LONG_RUN = (f"EPOCHS = {EPOCHS}", "SAVE_EVERY = 2", "EMA = 0.9", tiny.SEES_EVERYTHING)


class Killed(BaseException):
    """What no run catches."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    return run_training(data, tmp_path_factory.mktemp("train") / "whole", *LONG_RUN)


def fails_at(call: int, function: Callable[..., object]) -> Callable[..., object]:
    """The function, but its call of that number (from 1) ends the run; calls for best.pt are not counted."""
    calls = iter(range(1, 1000))

    def failing(*arguments: object, **options: object) -> object:
        if "best.pt" not in arguments and next(calls) == call:
            raise Killed
        return function(*arguments, **options)

    return failing


def without_speeds(run: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key not in SPEEDS} for line in log_lines(run)]


def resume(workdir: Path, *bindings: str) -> int:
    return train.main(["--resume", "--workdir", str(workdir), *(["--gin_bindings", *bindings] if bindings else [])])


# ---- what a run leaves behind ----


def test_folder_holds_the_promised_files_and_no_others(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == FILES


def test_log_has_a_line_a_step_with_the_promised_fields(whole: Path) -> None:
    lines = [line for line in log_lines(whole) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, EPOCHS * STEPS_AN_EPOCH + 1))
    assert [line["epoch"] for line in lines] == [0] * STEPS_AN_EPOCH + [1] * STEPS_AN_EPOCH
    for line in lines:
        assert line.keys() == STEP_FIELDS
        assert line["loss"] == pytest.approx(line["qfl"] + line["dfl"] + line["giou"], rel=1e-5)  # type: ignore[operator]
        assert 0 <= float(str(line["data_wait"])) <= 1
        assert line["canvas"] in ("64x96", "96x64")
        assert line["skipped"] == 0


def test_log_has_a_line_an_evaluation(whole: Path) -> None:
    lines = [line for line in log_lines(whole) if "AP" in line]
    assert [list(line) for line in lines] == [["step", "epoch", *SUMMARY]] * EPOCHS
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 1), (8, 2)]


def test_results_have_a_row_an_evaluation_equal_to_the_log(whole: Path) -> None:
    with open(whole / "results.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    logged = [line for line in log_lines(whole) if "AP" in line]
    assert [{key: float(value) for key, value in row.items()} for row in rows] == logged


def test_metrics_are_those_of_the_last_evaluation(whole: Path) -> None:
    metrics = json.loads((whole / "metrics.json").read_text())
    assert list(metrics) == [*SUMMARY, "per_class", "images", "seconds", "max_detections", "best_f1"]
    assert list(metrics["per_class"]) == ["circle", "square", "triangle", "star", "ring"]
    assert metrics["images"] == tiny.VAL_PICTURES
    last = log_lines(whole)[-1]
    assert {name: metrics[name] for name in SUMMARY} == {name: last[name] for name in SUMMARY}


def test_checkpoints_carry_the_best_f1_score_of_each_class(whole: Path) -> None:
    best = list(json.loads((whole / "metrics.json").read_text())["best_f1"].values())
    last = load_trained(whole / "last.pt")
    assert last.score_thresholds == score_thresholds([one and BestF1(**one) for one in best])
    assert load_trained(whole / "best.pt").score_thresholds is not None
    assert describe(last, size=(64, 96), batch=1).score_thresholds == last.score_thresholds


def test_detections_are_coco_results_with_the_categories_of_the_data(whole: Path) -> None:
    results = json.loads((whole / "val_detections.json").read_text())
    assert {tuple(result) for result in results} == {("image_id", "category_id", "bbox", "score", "edge_std")}
    assert {result["image_id"] for result in results} == {1, 2, 3}
    assert {result["category_id"] for result in results} <= {1, 2, 3, 5, 8}


def test_configs_rebuild_the_run(whole: Path, data: Path) -> None:
    bindings = [f"DATA_ROOT = {str(data)!r}", *tiny.BINDINGS, *LONG_RUN]
    expected = read_run([tiny.GIN_FILE], bindings).run
    assert read_text((whole / "config.gin").read_text()).run == expected
    assert read_text((whole / "operative.gin").read_text()).run == expected


def test_environment_names_the_command_and_the_device(whole: Path) -> None:
    environment = json.loads((whole / "env.json").read_text())
    assert environment["command"][:3] == ["python -m gfl.train", "--gin_file", tiny.GIN_FILE]
    assert environment["device"].startswith("cpu")
    assert environment["precision"] == "fp32"


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_checkpoints_hold_the_whole_model(whole: Path, name: str) -> None:
    model = load_trained(whole / name)
    assert model.names == ("circle", "square", "triangle", "star", "ring")
    assert model.category_ids == (1, 2, 3, 5, 8)
    assert model.canvases == ((64, 96), (96, 64))
    assert model.run.detector.num_classes == 5


def test_averaged_weights_are_what_is_shipped(whole: Path) -> None:
    saved = read_state(whole / "last.pt")
    assert_equal_bits(read_checkpoint(whole / "last.pt").state, saved["ema"])
    assert not torch.equal(*(saved[name]["bbox_head.gfl_reg.weight"] for name in ("ema", "variables")))  # type: ignore[index]


def test_best_is_the_checkpoint_of_the_highest_ap(whole: Path) -> None:
    evaluations = [line for line in log_lines(whole) if "AP" in line]
    best = max(reversed(evaluations), key=lambda line: float(str(line["AP"])))  # the last of equals
    saved = read_state(whole / "best.pt")
    assert saved["cursor"]["step"] == best["step"]  # type: ignore[index]
    assert saved["best"] == best["AP"]


def test_learning_rates_of_the_log_are_warm_up_and_cosine(whole: Path) -> None:
    cfg = read_text((whole / "config.gin").read_text()).run.optim
    rates = [float(str(line["lr"])) for line in log_lines(whole) if "lr" in line]
    full = cfg.lr * tiny.BATCH / 16
    assert rates[0] == pytest.approx(full * cfg.warmup_start)
    assert rates[4] == pytest.approx(full * (cfg.final_lr + (1 - cfg.final_lr) / 2))  # half-way
    assert rates[2:] == sorted(rates[2:], reverse=True)


# ---- exact resume ----


@pytest.mark.parametrize("step", [4, 5, 8], ids=["mid_epoch", "epoch_end", "last_step"])
def test_killed_run_goes_on_as_if_it_had_never_stopped(
    step: int, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in that step, it goes on from step 2, 4 or 6."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "step", fails_at(step, train.step))
        with pytest.raises(Killed):
            train.main(train_arguments(data, tmp_path / "run", *LONG_RUN))
    assert read_state(tmp_path / "run" / "last.pt")["cursor"]["step"] == (step - 1) // 2 * 2  # type: ignore[index]
    assert resume(tmp_path / "run") == 0
    assert_same_runs(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("function", "call", "step"),
    [
        ("validate", 1, 4),
        ("write", 3, 4),
        *(pytest.param("write", *where, marks=pytest.mark.slow) for where in ((2, 2), (5, 6), (6, 8))),
    ],
)
def test_run_killed_around_an_evaluation_repeats_no_line_of_it(
    function: str, call: int, step: int, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it; or after its lines were written and before the checkpoint that knows of them. step: in last.pt."""
    with monkeypatch.context() as patch:
        patch.setattr(train, function, fails_at(call, getattr(train, function)))
        with pytest.raises(Killed):
            train.main(train_arguments(data, tmp_path / "run", *LONG_RUN))
    assert read_state(tmp_path / "run" / "last.pt")["cursor"]["step"] == step  # type: ignore[index]
    assert resume(tmp_path / "run") == 0
    assert_same_runs(tmp_path / "run", whole)


# ---- an evaluation counted beside the next steps ----

BESIDE = "EVAL_IN_BACKGROUND = True"


def counted_late(may_count: threading.Event) -> Callable[..., object]:
    """The counting, which in a thread waits for a sign first; the last evaluation of a run is counted at once."""
    record = evaluation.record_evaluation

    def late(evaluated: evaluation.Evaluated, *more: Any) -> object:
        is_last = evaluated.step == EPOCHS * STEPS_AN_EPOCH
        assert is_last == (threading.current_thread() is threading.main_thread())
        assert is_last or may_count.wait(60)
        return record(evaluated, *more)

    return late


def at_step(number: int, do: Callable[[], object]) -> Callable[..., object]:
    """A step, and in that one (from 1) something is done first."""
    usual, calls = train.step, iter(range(1, 1000))

    def step(*arguments: Any) -> object:
        if next(calls) == number:
            do()
        return usual(*arguments)

    return step


@pytest.mark.parametrize("log_every", [1, 3, 20])
def test_a_run_that_counts_beside_its_steps_is_the_run_that_counts_first(
    log_every: int, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late the count: the first evaluation's begins only in step 6, if the log waits so long."""
    may_count = threading.Event()
    with monkeypatch.context() as patch:
        if log_every > 1:
            patch.setattr(evaluation, "record_evaluation", counted_late(may_count))
            patch.setattr(train, "step", at_step(6, may_count.set))
        settings = [each for each in LONG_RUN if "SAVE_EVERY" not in each]
        run = run_training(data, tmp_path / "run", *settings, BESIDE, f"LOG_EVERY = {log_every}")
    assert may_count.is_set() or log_every == 1
    assert_same_runs(run, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_told_to_end_before_the_count_records_it_and_goes_on_as_if_never_stopped(
    number: int, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_count = threading.Event()

    def stop() -> None:
        threading.Timer(0.5, may_count.set).start()
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "record_evaluation", counted_late(may_count))
        patch.setattr(train, "step", at_step(6, stop))
        assert train.main(train_arguments(data, tmp_path / "run", *LONG_RUN, BESIDE, "LOG_EVERY = 20")) == 128 + number
    saved = read_state(tmp_path / "run" / "last.pt")
    # Ctrl-C ends a step in its middle: what is left is the checkpoint of the evaluated weights.
    assert (saved["cursor"]["step"], saved["evaluation_due"]) == (6 if number == signal.SIGTERM else 4, False)  # type: ignore[index]
    assert [line["step"] for line in log_lines(tmp_path / "run") if "AP" in line] == [4]
    assert resume(tmp_path / "run", "LOG_EVERY = 1") == 0
    assert_same_runs(tmp_path / "run", whole)


KILLED_BEFORE_THE_COUNT = """
import os, signal, sys, time
from gfl import train
from gfl.record import evaluation

def counted_never(*_):
    time.sleep(60)

usual, steps = train.step, iter(range(1, 1000))

def step(*given):
    if next(steps) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(*given)

train.step, evaluation.record_evaluation = step, counted_never
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_run_killed_between_detection_and_count_repeats_the_evaluation(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = [each for each in LONG_RUN if "SAVE_EVERY" not in each]
    arguments = train_arguments(data, run, *settings, BESIDE, "LOG_EVERY = 20")
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # of the run that it is compared with
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_COUNT, *arguments], env=threads, check=False)
    assert killed.returncode == -signal.SIGKILL
    saved = read_state(run / "last.pt")
    assert (saved["cursor"]["step"], saved["evaluation_due"]) == (4, True)  # type: ignore[index]
    assert not (run / "results.csv").exists()
    assert not (run / "best.pt").exists()
    assert resume(run, "LOG_EVERY = 1") == 0
    assert_same_runs(run, whole)


@pytest.mark.parametrize("call", [2, 3], ids=["before_best", "before_last"])
def test_a_run_killed_while_the_thread_writes_repeats_no_line_of_the_evaluation(
    call: int, whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1, 1000))

    def failing(*arguments: Any) -> None:
        if next(calls) == call:
            raise Killed
        usual(*arguments)

    settings = [each for each in LONG_RUN if "SAVE_EVERY" not in each]
    with monkeypatch.context() as patch:
        usual = train.write
        patch.setattr(train, "write", failing)
        with pytest.raises(Killed):
            train.main(train_arguments(data, tmp_path / "run", *settings, BESIDE))
    assert read_state(tmp_path / "run" / "last.pt")["cursor"]["step"] == 4  # type: ignore[index]
    assert resume(tmp_path / "run") == 0
    assert_same_runs(tmp_path / "run", whole)


def test_an_error_of_the_count_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise InputError("cannot write: the disk is full; free some space")

    monkeypatch.setattr(evaluation, "record_evaluation", full)
    assert train.main(train_arguments(data, tmp_path / "run", *LONG_RUN, BESIDE)) == 2
    assert capsys.readouterr().err == "error: cannot write: the disk is full; free some space\n"


def test_who_counts_beside_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def may(device: torch.device, **settings: Any) -> bool:
        return evaluation.may_count_beside_steps(RunConfig(**settings), device)

    assert (may(cpu), may(cuda)) == (False, True)
    assert (may(cpu, eval_in_background=True), may(cuda, eval_in_background=False)) == (True, False)
    assert not may(cuda, patience=1)
    with pytest.raises(ValueError, match="PATIENCE=1: expected one of them"):
        RunConfig(patience=1, eval_in_background=True)
    monkeypatch.setattr("gfl.report.coco_matching.find_spec", lambda name: None)
    assert not may(cuda)


def assert_same_runs(run: Path, whole: Path) -> None:
    """Equal checkpoints, bit for bit, and equal records but for the speeds."""
    for name in ("last.pt", "best.pt"):
        one, other = read_state(run / name), read_state(whole / name)
        assert_equal_bits(one, other)
        assert (one["cursor"], one["best"]) == (other["cursor"], other["best"])
    assert without_speeds(run) == without_speeds(whole)
    assert (run / "results.csv").read_text() == (whole / "results.csv").read_text()
    assert (run / "val_detections.json").read_text() == (whole / "val_detections.json").read_text()
    assert {path.name for path in run.iterdir()} == FILES


def test_interrupted_run_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "validate", interrupted)
        assert train.main(train_arguments(data, tmp_path / "run")) == 130
    left = f"the run is in {tmp_path / 'run'}: last.pt is after 4 steps"
    command = f"  go on     python -m gfl.train --resume --workdir {tmp_path / 'run'}"
    assert capsys.readouterr().err == f"\nstopped\n{left}\n{command}\n"
    assert (tmp_path / "run" / "train.log").read_text().endswith(f"stopped\n{left}\n{command}\n")
    assert not (tmp_path / "run" / ".lock").exists()
    assert resume(tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["images"] == tiny.VAL_PICTURES


def test_run_interrupted_before_its_first_checkpoint_promises_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "step", interrupted)
    assert train.main(train_arguments(data, tmp_path / "run")) == 130
    assert "\nstopped before its first checkpoint; start again" in capsys.readouterr().err


def signalled(function: Callable[..., object], call: int, number: int) -> Callable[..., object]:
    """The function; a signal comes during its call of that number (from 1)."""
    calls = iter(range(1, 1000))

    def during(*arguments: object, **options: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return during


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param(3, signal.SIGTERM, id="mid_epoch"),
        pytest.param(4, signal.SIGHUP, id="epoch_end", marks=pytest.mark.slow),
        pytest.param(7, signal.SIGHUP, id="later"),
    ],
)
def test_run_told_to_end_saves_its_step_and_goes_on_from_there(
    number: int,
    step: int,
    whole: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "step", signalled(train.step, step, number))
        assert train.main(train_arguments(data, tmp_path / "run", *LONG_RUN, "LOG_EVERY = 20")) == 128 + number
    said = capsys.readouterr().err.splitlines()
    best = r", best\.pt after 4 steps, AP \d\.\d" if step > 4 else ""
    assert re.fullmatch(rf"the run is in .*: last\.pt is after {step} steps{best}", said[2])
    assert said[3] == f"  go on     python -m gfl.train --resume --workdir {tmp_path / 'run'}"
    assert read_state(tmp_path / "run" / "last.pt")["cursor"]["step"] == step  # type: ignore[index]
    assert not (tmp_path / "run" / ".lock").exists()
    assert resume(tmp_path / "run", "LOG_EVERY = 1") == 0
    assert_same_runs(tmp_path / "run", whole)


def test_run_told_to_end_while_it_evaluates_stops_between_two_batches(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def predictor(*given: object) -> Callable[..., object]:
        predict = usual(*given)  # type: ignore[arg-type]  # as they came

        def counted(images: torch.Tensor, sizes: torch.Tensor) -> object:
            seen.append(len(images))
            os.kill(os.getpid(), signal.SIGTERM)
            return predict(images, sizes)

        return counted

    with monkeypatch.context() as patch:
        usual = train.predictor
        patch.setattr(train, "predictor", predictor)
        assert train.main(train_arguments(data, tmp_path / "run", *LONG_RUN)) == 143
    assert seen == [tiny.BATCH]
    assert not (tmp_path / "run" / "results.csv").exists()
    assert resume(tmp_path / "run") == 0
    assert_same_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("function", ["open_data", "print_head", "rate_at"])
def test_run_told_to_end_before_its_first_step_leaves_a_folder_for_the_next(
    function: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("MAX_STEPS = 1", "EVAL_EVERY = 0")
    with monkeypatch.context() as patch:
        patch.setattr(train, function, signalled(getattr(train, function), 1, signal.SIGTERM))
        assert train.main(train_arguments(data, tmp_path / "run", *short)) == 143
    assert capsys.readouterr().err.startswith("\nstopped before its first checkpoint; start again, in the same folder")
    run_training(data, tmp_path / "run", *short)


def test_resuming_a_finished_run_changes_nothing(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (whole / name).read_bytes() for name in ("log.jsonl", "results.csv", "last.pt", "env.json")}
    assert resume(whole) == 0
    assert {name: (whole / name).read_bytes() for name in before} == before
    assert "resumed at step 8" in capsys.readouterr().out


def test_resumed_run_takes_further_bindings(data: Path, tmp_path: Path) -> None:
    run = run_training(data, tmp_path / "run")
    assert resume(run, "EPOCHS = 2") == 0
    assert [line["step"] for line in log_lines(run) if "loss" in line] == list(range(1, 9))
    assert read_text((run / "config.gin").read_text()).run.epochs == 2


def test_run_stopped_in_an_epoch_goes_on_with_the_same_batches(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else pictures of it would come twice or never."""
    run = run_training(data, tmp_path / "run", "MAX_STEPS = 2")
    twice, quotient = tiny.BATCH * 2, "got BATCH_SIZE / ACCUMULATE ="
    for binding, said in (
        (
            f"BATCH_SIZE = {twice}",
            f"{quotient} {twice} where the run stopped with {tiny.BATCH} in the middle of epoch 1",
        ),
        (f"ACCUMULATE = {tiny.BATCH}", f"{quotient} 1 where the run stopped with {tiny.BATCH}"),
        ("SEED = 7", "got SEED = 7 where the run stopped with 0"),
    ):
        assert resume(run, "MAX_STEPS = 0", binding) == 2
        assert said in capsys.readouterr().err
    assert resume(run, "MAX_STEPS = 0", "FLIP = 0.0") == 0


def test_run_stopped_between_epochs_goes_on_with_other_batches(data: Path, tmp_path: Path) -> None:
    run = run_training(data, tmp_path / "run")
    assert resume(run, "EPOCHS = 2", f"BATCH_SIZE = {tiny.BATCH * 2}", "SEED = 7") == 0
    assert [line["epoch"] for line in log_lines(run) if "loss" in line].count(1) < STEPS_AN_EPOCH


@pytest.mark.slow
def test_resumed_run_keeps_its_weights_whatever_it_started_from(data: Path, tmp_path: Path) -> None:
    """The stem and the first stage are folded once, when the run begins: from the run's weights, not from new ones."""
    frozen = (
        "resnet.ResNetConfig.norm = 'frozen_bn'",
        "resnet.ResNetConfig.frozen_stages = 1",
        "SEED = 5",
        "WARMUP_STEPS = 0",
    )
    straight = run_training(data, tmp_path / "straight", *frozen, "EPOCHS = 2", "SCHEDULE = 'steps'")
    run = run_training(data, tmp_path / "run", *frozen, "SCHEDULE = 'steps'")
    assert resume(run, "EPOCHS = 2") == 0
    assert_equal_bits(read_state(run / "last.pt"), read_state(straight / "last.pt"))


# ---- where a run starts from ----


def test_frozen_backbone_stays_as_it_was_and_the_rest_learns(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, frozen = ["--checkpoint", str(whole / "last.pt")], "FREEZE = 'backbone'"
    run = run_training(data, tmp_path / "run", frozen, "EMA = 0.9", "SAVE_EVERY = 2", flags=flags)
    before = read_state(whole / "last.pt")["ema"]
    assert isinstance(before, dict)
    for tree in ("variables", "ema"):
        after = read_state(run / "last.pt")[tree]
        assert isinstance(after, dict)
        changed = {path for path in after if not torch.equal(after[path], before[path])}
        assert not any(path.startswith("backbone.") for path in changed)
        assert {"neck.lateral_convs.0.conv.weight", "bbox_head.gfl_cls.weight"} <= changed
    assert re.search(r"model +R18-FPN GFLV2 0\.73 M parameters \(0\.0\d M are trained\)", capsys.readouterr().out)
    resumed = ["--resume", "--workdir", str(run), "--gin_bindings", "EPOCHS = 2"]
    said = tiny.refusal(train.main, [*resumed, "FREEZE = None"], capsys)
    assert re.search(r"trains \d+ weights, \d+ are trained now; --resume keeps FREEZE", said)
    assert train.main(resumed) == 0


def test_finetuning_tells_what_was_reinitialised(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.write_data(tmp_path / "data")
    for split in ("train", "val"):
        tiny.change_annotations(other, keep_two_classes, split)
    run = run_training(other, tmp_path / "run", "MAX_STEPS = 1", flags=["--checkpoint", str(whole / "best.pt")])
    printed = capsys.readouterr().out
    said = next(line for line in printed.splitlines() if line.startswith("model"))
    assert re.search(r"best\.pt: tensors \d+ kept, 2 kept in part$", said)
    layer = "class layer: 1 of 2 rows kept by name (circle), new: cube; not used from the file: square, triangle, star"
    assert layer in printed
    assert load_trained(run / "last.pt").names == ("cube", "circle")


def keep_two_classes(content: dict[str, list[dict[str, object]]]) -> None:
    """A class of another name first, and the first class of the data second."""
    content["categories"] = [{"id": 1, "name": "cube"}, {"id": 2, "name": "circle"}]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] in (1, 2)]


def test_class_layer_follows_the_names_of_the_classes(data: Path, whole: Path, tmp_path: Path) -> None:
    other = tiny.write_data(tmp_path / "data")
    for split in ("train", "val"):
        tiny.change_annotations(other, tiny.turn_ids, split)
    flags = ["--checkpoint", str(whole / "last.pt")]
    run = run_training(other, tmp_path / "run", "LR = 0.0", "MAX_STEPS = 1", flags=flags)
    before, after = (load_trained(folder / "last.pt") for folder in (whole, run))
    assert after.names == before.names[::-1]
    for name in ("weight", "bias"):
        rows = [flatten(model.variables)[f"bbox_head.gfl_cls.{name}"] for model in (before, after)]
        assert torch.equal(rows[1], rows[0].flip(0))


def test_validation_is_counted_by_name(data: Path, whole: Path, tmp_path: Path) -> None:
    other = tiny.write_data(tmp_path / "data")
    tiny.change_annotations(other, tiny.turn_ids, "val")
    flags = ["--checkpoint", str(whole / "last.pt")]
    same, turned = (
        run_training(folder, tmp_path / f"run{i}", "MAX_STEPS = 1", tiny.SEES_EVERYTHING, flags=flags)
        for i, folder in enumerate((data, other))
    )
    aps = [json.loads((run / "metrics.json").read_text())["per_class"] for run in (same, turned)]
    assert aps[0] == aps[1]


def test_resuming_with_other_classes_is_refused(
    whole: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as before: their weights would fit, in other places."""
    other = tiny.write_data(tmp_path / "data")
    for split in ("train", "val"):
        tiny.change_annotations(other, tiny.turn_ids, split)
    shutil.copytree(whole, tmp_path / "run")
    arguments = ["--resume", "--workdir", str(tmp_path / "run"), "--gin_bindings", f"DATA_ROOT = {str(other)!r}"]
    said = tiny.refusal(train.main, arguments, capsys)
    assert "names the classes ring, star, triangle, square, circle, expected" in said
    assert "first difference: class 1 is 'ring', was 'circle'" in said


def test_checkpoint_of_another_backbone_is_refused(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Biases and scales would fit, and the run would be one from random weights."""
    wider = ("resnet.ResNetConfig.base_width = 32", "MAX_STEPS = 1")
    arguments = train_arguments(data, tmp_path / "run", *wider, flags=["--checkpoint", str(whole / "best.pt")])
    assert train.main(arguments) == 2
    said = capsys.readouterr().err
    assert "has another backbone than the run: got backbone.conv1.weight (16, 3, 7, 7), expected (32, 3, 7, 7)" in said


def test_run_file_for_finetuning_trains_from_a_checkpoint(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the README has it: no file of its model, which the checkpoint brings; or that file first."""
    bindings = ["--gin_bindings", f"DATA_ROOT = {str(data)!r}", "MAX_STEPS = 2", "DEVICE = 'cpu'", "WORKERS = 0"]
    start = ["--gin_file", "finetune.gin", "--checkpoint", str(whole / "best.pt")]
    for name, files in (("alone", []), ("after", ["--gin_file", tiny.GIN_FILE])):
        run = tmp_path / name
        assert train.main([*files, *start, "--workdir", str(run), *bindings]) == 0
        settings = read_text((run / "config.gin").read_text()).run
        assert (settings.optim.optimizer, settings.optim.lr, settings.data.short_side) == ("adamw", 0.004, 64)
        assert all(0 < float(str(line["loss"])) < 10 for line in log_lines(run) if "loss" in line)
        said = capsys.readouterr().out
        assert re.search(r"taken +\d+ settings from .*best\.pt:\n +OPTIMIZER = 'adamw', LR = 0\.004", said)
        assert re.search(r"model +R18-FPN GFLV2 .* \| best\.pt: tensors \d+ kept\n", said)


def test_run_starts_from_the_averaged_weights_of_its_checkpoint(data: Path, whole: Path, tmp_path: Path) -> None:
    """And the flag wins over the knob."""
    flags = ["--checkpoint", str(whole / "last.pt")]
    run = run_training(data, tmp_path / "run", "LR = 0.0", "MAX_STEPS = 1", "CHECKPOINT = 'nowhere.pth'", flags=flags)
    assert_equal_bits(read_state(run / "last.pt")["variables"], read_state(whole / "last.pt")["ema"])


def test_same_seed_gives_the_same_run_and_another_one_another(data: Path, tmp_path: Path) -> None:
    runs = [
        run_training(data, tmp_path / name, f"SEED = {seed}", "EVAL_EVERY = 0")
        for name, seed in zip("abc", (3, 3, 4), strict=True)
    ]
    assert without_speeds(runs[0]) == without_speeds(runs[1])
    assert without_speeds(runs[0]) != without_speeds(runs[2])


# ---- the knobs of a run ----


@pytest.mark.parametrize(
    "bindings",
    [
        ("CANVASES = 'own'",),
        ("CANVASES = ((96, 96),)",),
        ("SHORT_SIDE = (48, 64)",),
        ("PRECISION = 'bf16'",),
        ("PRECISION = 'o1'", "LOSS_SCALE = 'dynamic'"),
        ("PRECISION = 'o1'", "OPTIMIZER = 'sgd'", "EMA = 0.9"),
        ("WORKERS = 1",),
    ],
    ids=["own", "list", "multi_scale", "bf16", "o1_dynamic", "o1_sgd", "worker"],
)
def test_two_steps_have_finite_losses(bindings: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    run = run_training(data, tmp_path / "run", "MAX_STEPS = 2", *bindings)
    losses = [line["loss"] for line in log_lines(run) if "loss" in line]
    assert len(losses) == 2
    assert all(isinstance(loss, float) and 0 < loss < 10 for loss in losses)  # null where not finite
    assert load_trained(run / "last.pt").canvases == (None if "own" in bindings[0] else read_canvases(run))


def read_canvases(run: Path) -> tuple[tuple[int, int], ...]:
    return tuple((height, width) for height, width in read_state(run / "last.pt")["canvases"])  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's default backend needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own use
def test_compiled_run_has_the_losses_of_the_plain_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # what others left half-written is not read
    knobs = ("CANVASES = ((96, 96),)", "MAX_STEPS = 2", "EVAL_EVERY = 0")
    plain = run_training(data, tmp_path / "plain", *knobs)
    compiled = run_training(data, tmp_path / "compiled", *knobs, "COMPILE = True")
    losses = [[line["loss"] for line in log_lines(run)] for run in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # fused kernels round differently


def test_accumulating_steps_over_several_batches(data: Path, tmp_path: Path) -> None:
    run = run_training(data, tmp_path / "run", "BATCH_SIZE = 4", "ACCUMULATE = 2")
    lines = [line for line in log_lines(run) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]  # four batches of two
    assert read_state(run / "last.pt")["cursor"] == {"epoch": 1, "batch": 0, "step": 2}


def test_run_without_evaluation_needs_no_validation_data(data: Path, tmp_path: Path) -> None:
    paths_of_train = (f"TRAIN_JSON = {str(tiny.annotations(data))!r}", f"TRAIN_IMAGES = {str(data / 'train2017')!r}")
    run = run_training(data, tmp_path / "run", "DATA_ROOT = None", *paths_of_train, "EVAL_EVERY = 0", "MAX_STEPS = 1")
    assert {path.name for path in run.iterdir()} == FILES - {"results.csv", "metrics.json", "val_detections.json"}


@pytest.mark.slow
def test_evaluation_comes_every_so_many_epochs_and_at_the_end(data: Path, tmp_path: Path) -> None:
    run = run_training(data, tmp_path / "run", "EPOCHS = 3", "EVAL_EVERY = 2")
    assert [line["epoch"] for line in log_lines(run) if "AP" in line] == [2, 3]


def test_log_is_the_same_however_seldom_it_is_written(data: Path, tmp_path: Path) -> None:
    often, seldom = (
        run_training(data, tmp_path / str(every), f"LOG_EVERY = {every}", "EVAL_EVERY = 0") for every in (1, 3)
    )
    assert without_speeds(often) == without_speeds(seldom)


def test_generated_data_is_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "SYNTHETIC_TRAIN", 2)
    monkeypatch.setattr(paths, "SYNTHETIC_VAL", 1)
    run = run_training(Path("synthetic"), Path("run"), "MAX_STEPS = 1")
    assert load_trained(run / "last.pt").names == ("circle", "square", "triangle", "star", "ring")
    assert (tmp_path / "data" / "synthetic" / "train2017").is_dir()


# ---- the command line ----


def test_head_tells_data_shapes_model_rate_and_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_training(data, tmp_path / "run", "MAX_STEPS = 1", "EVAL_EVERY = 0")
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("note")]
    head = [line for line in lines[:8] if not line.startswith(("learn", "loader"))]
    assert [line.split()[0] for line in head] == ["GFLV2", "data", "shapes", "model", "lr", "run"]
    assert any(line.startswith("loader") and "WORKERS = 0" in line for line in lines)
    assert "train 6 images" in head[1]
    assert "no validation" in head[1]
    assert "64x96 75%  96x64 25%" in head[2]
    assert "random weights, seed 0" in head[3]
    assert "0.0005 (0.004 for 16 images, scaled to 2) | adamw, cosine" in head[4]
    assert str(tmp_path / "run") in head[5]


def test_run_without_workdir_is_named_after_its_config_and_the_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = train_arguments(data, Path("unused"), "MAX_STEPS = 1", "EVAL_EVERY = 0")
    assert train.main([each for each in arguments if each not in ("--workdir", "unused")]) == 0
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert (folder / "last.pt").is_file()


def test_print_config_prints_and_makes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(train_arguments(data, tmp_path / "run", "SEED = 9", flags=["--print_config"])) == 0
    assert read_text(capsys.readouterr().out).run.seed == 9
    assert not (tmp_path / "run").exists()


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for flag in ("gin_file", "gin_bindings", "workdir", "checkpoint", "resume", "print_config"):
        assert f"--{flag}" in said


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# ---- how long a run is, and what is best ----


def told(data: Path, folder: Path, capsys: pytest.CaptureFixture[str], *bindings: str) -> str:
    """What a run prints; its folder is `folder`."""
    capsys.readouterr()
    run_training(data, folder, *bindings)
    return capsys.readouterr().out


def no_boxes(content: dict[str, list[dict[str, object]]]) -> None:
    content["annotations"] = []


def test_a_run_ends_with_what_best_holds_and_the_commands_to_go_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(data, tmp_path / "my run", capsys, "MAX_STEPS = 1")
    assert "best.pt holds the weights after 1 step, AP" in said
    best, val = tmp_path / "my run" / "best.pt", data / "val2017"
    assert f"--checkpoint '{best}' --annotations {tiny.annotations(data, 'val')} --images {val}" in said
    assert f"python -m export.onnx --checkpoint '{best}'" in said
    assert f"python -m infer.run --model '{best}' --input {val} --output '{tmp_path}/my run/found' --draw" in said


def test_a_run_ends_with_a_table_of_its_last_and_best_evaluation_and_its_time(whole: Path) -> None:
    said = (whole / "train.log").read_text()
    last = [float(str(line["AP"])) for line in log_lines(whole) if "AP" in line][-1]
    assert re.search(rf"\n +step +AP +AP50 +AP75 +S +M +L\nlast +8 +{100 * last:.1f} .*\nbest +[48] ", said)
    assert re.search(r"\ntime    \d:\d\d of steps, \d+\.\d pictures a second \| \d:\d\d in all\n", said)


def test_a_quiet_run_prints_notes_and_its_end_and_logs_everything(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run = run_training(data, tmp_path / "run", flags=["--quiet"])
    printed, log = capsys.readouterr().out.splitlines(), (run / "train.log").read_text().splitlines()
    assert {line.split()[0] for line in printed if line and line[0] != " "} <= {
        "note",
        "note:",
        "last",
        "best",
        "time",
        "the",
    }
    assert [line.split()[0] for line in printed[-3:]] == ["evaluate", "export", "detect"]
    assert set(printed) <= set(log)
    assert {"GFLV2", "data", "shapes", "model", "epoch", "val", "AP"} <= {line.split()[0] for line in log if line}


def test_the_log_of_a_run_is_what_a_file_gets_and_goes_on_with_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(data, tmp_path / "run", capsys, "MAX_STEPS = 2")
    log = tmp_path / "run" / "train.log"
    command, _, rest = log.read_text().partition("\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d python -m gfl\.train --gin_file tiny\.gin .*", command)
    assert rest == said
    before = log.read_text()
    assert resume(tmp_path / "run", "MAX_STEPS = 3") == 0
    assert log.read_text().startswith(before)
    assert "resumed at step 2" in log.read_text()


def test_an_error_is_in_the_log_of_its_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise InputError("cannot write: the disk is full; free some space")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    for name, instead, said in (("write", full, "error: cannot write: the disk is full"), ("step", broken, "a bug\n")):
        with monkeypatch.context() as patch:
            patch.setattr(train, name, instead)
            arguments = train_arguments(data, tmp_path / name)
            if instead is full:
                assert train.main(arguments) == 2
            else:
                with pytest.raises(RuntimeError):
                    train.main(arguments)
        log = (tmp_path / name / "train.log").read_text()
        assert said in log
        assert ("Traceback" in log) == (instead is broken)


def test_without_an_evaluation_best_is_the_last(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(data, tmp_path / "run", capsys, "EVAL_EVERY = 0", "MAX_STEPS = 2")
    assert "best.pt holds the last weights (2 steps): nothing was evaluated" in said
    assert read_state(tmp_path / "run" / "best.pt")["cursor"] == read_state(tmp_path / "run" / "last.pt")["cursor"]


def test_with_nothing_to_measure_best_is_the_last(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(data, tmp_path / "bare"))
    tiny.change_annotations(bare, no_boxes, "val")
    said = told(bare, tmp_path / "run", capsys, "EPOCHS = 2")
    assert "(8 steps): validation has no boxes, so there is nothing to measure" in said
    assert read_state(tmp_path / "run" / "best.pt")["best_step"] == 8


def test_of_equal_aps_the_later_is_best(data: Path, tmp_path: Path) -> None:
    nothing_found = "postprocess.PredictConfig.score_threshold = 0.999"
    run = run_training(data, tmp_path / "run", "EPOCHS = 2", nothing_found)
    assert read_state(run / "best.pt")["best_step"] == 8


def test_max_steps_go_on_through_epochs(data: Path, tmp_path: Path) -> None:
    run = run_training(data, tmp_path / "run", "EPOCHS = 1", "MAX_STEPS = 6", "EVAL_EVERY = 0")
    assert [line["epoch"] for line in log_lines(run)] == [0] * STEPS_AN_EPOCH + [1] * 2


def test_patience_ends_a_run_that_gains_nothing_and_holds_when_it_goes_on(data: Path, tmp_path: Path) -> None:
    nothing_found = "postprocess.PredictConfig.score_threshold = 0.999"
    whole = run_training(data, tmp_path / "whole", "EPOCHS = 9", "PATIENCE = 2", nothing_found)
    assert [line["epoch"] for line in log_lines(whole) if "AP" in line] == [1, 2, 3]
    part = run_training(data, tmp_path / "part", "EPOCHS = 2", "PATIENCE = 2", nothing_found)
    assert resume(part, "EPOCHS = 9") == 0
    assert [line["epoch"] for line in log_lines(part) if "AP" in line] == [1, 2, 3]
    assert resume(part) == 0  # there is nothing left to do
    assert read_state(part / "last.pt")["cursor"] == read_state(whole / "last.pt")["cursor"]


def test_the_last_group_of_batches_shows_its_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(data, tmp_path / "run", capsys, "BATCH_SIZE = 6", "ACCUMULATE = 3", "EVAL_EVERY = 0")
    assert "epoch 1/1 2/2" in said  # four batches in groups of three


def test_a_run_that_goes_on_with_more_epochs_says_what_the_rate_does(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_training(data, tmp_path / "run", "EVAL_EVERY = 0")
    assert resume(run, "EPOCHS = 2") == 0
    assert re.search(r"EPOCHS 1 -> 2: the rate would have been \S+ here and goes on at", capsys.readouterr().out)


def test_the_head_says_what_can_be_learnt(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(data, tmp_path / "run", capsys, "EVAL_EVERY = 0", "EPOCHS = 3")
    assert "learn   6 of 6 pictures readable | " in said
    assert "12 steps in 3 epochs" in said
    assert re.search(r"boxes to learn, .* an anchor at these sizes", said)
