"""What trackers are told of a run, and that none of them stops or slows it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tiny
from tiny import STEPS_AN_EPOCH, assert_equal_bits, log_lines, run_training, train_arguments

from gfl import train
from gfl.engine.checkpoints import read_state
from gfl.errors import InputError
from gfl.record.trackers import opening, tracking
from gfl.record.trackers.interface import Ended, Line, Started, flat_settings, store_id, stored_id
from gfl.record.trackers.opening import KINDS, open_trackers
from gfl.record.trackers.tracking import Tracking
from gfl.settings import OptimConfig, RunConfig

RUN = Started(Path("runs/r50/noon"), {"optim.lr": "0.01"}, 0)
TRACKED = "TRACKERS = ('mlflow',)"


class Recorder:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def start(self, run: Started) -> str:
        self.told.append(("start", run))
        return "here"

    def steps(self, lines: Sequence[Line]) -> None:
        self.told += [("step", line) for line in lines]

    def evaluation(self, line: Line) -> None:
        self.told.append(("evaluation", line))

    def end(self, how: Ended) -> None:
        self.told.append(("end", how))

    def names(self) -> list[str]:
        return [name for name, _ in self.told]


class Failing(Recorder):
    """A tracker that raises at an event."""

    def __init__(self, event: str, error: BaseException) -> None:
        super().__init__()
        self.event, self.error = event, error

    def steps(self, lines: Sequence[Line]) -> None:
        super().steps(lines)
        if self.event == "steps":
            raise self.error

    def start(self, run: Started) -> str:
        if self.event == "start":
            raise self.error
        return super().start(run)


class Hanging(Recorder):
    """A tracker that does not come back from its first steps until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def steps(self, lines: Sequence[Line]) -> None:
        self.release.wait(30)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("tracking") / "data")


def use(monkeypatch: pytest.MonkeyPatch, tracker: Recorder) -> None:
    """Let a run whose TRACKERS are not empty have this one."""
    monkeypatch.setattr(train, "open_trackers", lambda names: {"recorder": tracker} if names else {})


# ---- a run ----


def test_a_run_tells_its_settings_its_log_its_evaluations_and_its_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    use(monkeypatch, recorder)
    run = run_training(data, tmp_path / "run", "EPOCHS = 2", "LOG_EVERY = 3", TRACKED)
    epoch = ["step"] * STEPS_AN_EPOCH + ["evaluation"]
    assert recorder.names() == ["start", *epoch, *epoch, "end"]
    assert recorder.told[-1] == ("end", "finished")
    begun = recorder.told[0][1]
    assert isinstance(begun, Started)
    assert (begun.folder, begun.step, begun.name.split("/")[-1]) == (run, 0, "run")
    assert (begun.settings["epochs"], begun.settings["optim.optimizer"]) == ("2", "adamw")
    lines = [line for _, line in recorder.told[1:-1] if isinstance(line, Line)]
    for told, logged in zip(lines, log_lines(run), strict=True):
        group = "train" if "loss" in logged else "val"
        numbers = {f"{group}/{name}": value for name, value in logged.items() if name not in ("step", "canvas")}
        measured = {name: value for name, value in numbers.items() if name == "val/epoch" or float(str(value)) >= 0}
        measured.pop("val/epoch", None)
        assert (told.step, told.numbers) == (logged["step"], measured)
    assert "tracker recorder | here" in capsys.readouterr().out


def test_a_tracked_run_is_the_run_that_is_not(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Recorder())
    plain, tracked = (
        run_training(data, tmp_path / name, f"TRACKERS = {value!r}") for name, value in (("a", ()), ("b", ("wandb",)))
    )
    for name in ("last.pt", "best.pt"):
        assert_equal_bits(read_state(plain / name), read_state(tracked / name))
    speeds = re.compile(r'"(img_per_s|data_wait)": ?[^,}]+')
    assert len({speeds.sub("", (run / "log.jsonl").read_text()) for run in (plain, tracked)}) == 1
    assert (plain / "results.csv").read_text() == (tracked / "results.csv").read_text()


def test_a_run_that_goes_on_tells_its_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    run = run_training(data, tmp_path / "run", "MAX_STEPS = 2", "EVAL_EVERY = 0")
    use(monkeypatch, recorder)
    arguments = ["--resume", "--workdir", str(run), "--gin_bindings", "MAX_STEPS = 3", TRACKED]
    assert train.main(arguments) == 0
    begun, step = recorder.told[0][1], recorder.told[1][1]
    assert isinstance(begun, Started)
    assert isinstance(step, Line)
    assert (begun.step, step.step) == (2, 3)


def test_a_run_that_is_told_to_end_and_one_that_fails_say_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("cannot write: the disk is full; free some space")

    def told_to_end(*given: object, **more: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return usual(*given, **more)  # type: ignore[arg-type]  # as they came

    usual = train.step
    for name, instead, how, code in (("step", told_to_end, "stopped", 143), ("write", full, "failed", 2)):
        recorder = Recorder()
        with monkeypatch.context() as patch:
            use(patch, recorder)
            patch.setattr(train, name, instead)
            assert train.main(train_arguments(data, tmp_path / name, TRACKED)) == code
        assert recorder.told[-1] == ("end", how)


@pytest.mark.parametrize("event", ["start", "steps"])
def test_a_tracker_that_fails_is_dropped_and_named_once(
    event: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Failing(event, ConnectionError("connection refused\nby the server"))
    use(monkeypatch, failing)
    run_training(data, tmp_path / "run", "EPOCHS = 2", TRACKED)
    note = "note: the tracker recorder was dropped (connection refused); the run goes on without it"
    assert capsys.readouterr().out.count(note) == 1
    assert (tmp_path / "run" / "train.log").read_text().count(note) == 1
    assert failing.names() == ([] if event == "start" else ["start", "step"])


def test_what_is_missing_is_told_before_anything_is_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = tiny.refusal(train.main, train_arguments(data, tmp_path / "run", TRACKED), capsys)
    assert said.startswith("error: TRACKERS has 'mlflow', whose package cannot be imported (")
    assert said.endswith("call `pip install mlflow`, or leave 'mlflow' out of TRACKERS\n")
    assert not (tmp_path / "run").exists()


def test_files_of_trackers_do_not_hinder_a_start_after_a_run_without_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    class Writing(Recorder):
        def start(self, run: Started) -> str:
            store_id(run.folder, "mlflow", "7")
            (run.folder / "tensorboard").mkdir()
            (run.folder / "tensorboard" / "events").write_text("")
            return super().start(run)

    use(monkeypatch, Writing())
    with monkeypatch.context() as patch:
        patch.setattr(train, "step", interrupted)
        assert train.main(train_arguments(data, tmp_path / "run", TRACKED)) == 130
    assert {"trackers.json", "tensorboard", "train.log"} <= {path.name for path in (tmp_path / "run").iterdir()}
    run_training(data, tmp_path / "run", "MAX_STEPS = 1", "EVAL_EVERY = 0")
    assert not (tmp_path / "run" / "tensorboard").exists()


# ---- the threads ----


def drop_note(tracker: Recorder, act: Callable[[Tracking], None], clock: Callable[[], float] = lambda: 0.0) -> str:
    """What a run is told while it hands out events; the note of the one tracker that it has."""
    notes: list[str] = []
    tracked = Tracking({"one": tracker}, notes.append, clock)
    with tracked.of(RUN, lambda text: None):
        act(tracked)
    assert len(notes) <= 1
    return next(iter(notes), "")


def test_a_tracker_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "END_WAIT_S", {"finished": 0.1})
    hanging, now = Hanging(), [0.0]

    def act(tracked: Tracking) -> None:
        tracked.steps([{"step": 1, "loss": 1.0}])
        while tracked._senders[0]._busy_since is None:
            time.sleep(0.001)
        now[0] = tracking.MOST_SECONDS + 1
        tracked.evaluation(1, {"AP": 0.5})

    assert "was dropped (no answer for 61 s)" in drop_note(hanging, act, lambda: now[0])
    hanging.release.set()


def test_a_tracker_that_is_too_slow_is_dropped_before_events_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MOST_WAITING", 4)
    hanging = Hanging()

    def act(tracked: Tracking) -> None:
        for step in range(1, 10):
            tracked.steps([{"step": step, "loss": 1.0}])
        hanging.release.set()

    assert "was dropped (4 events wait for it)" in drop_note(hanging, act)


def test_a_tracker_that_is_slow_at_the_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "END_WAIT_S", {"finished": 0.1})
    hanging = Hanging()
    assert "was dropped (the last events were not sent in time)" in drop_note(
        hanging, lambda tracked: tracked.steps([{"step": 1}])
    )
    hanging.release.set()


def test_a_tracker_that_never_began_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Hanging):
        def start(self, run: Started) -> str:
            self.release.wait(30)
            return ""

    monkeypatch.setattr(tracking, "START_WAIT_S", 0.1)
    unreachable, before = Unreachable(), time.monotonic()
    assert "was dropped (no answer since the run began)" in drop_note(
        unreachable, lambda tracked: tracked.steps([{"step": 1}])
    )
    assert time.monotonic() - before < 5
    unreachable.release.set()


def test_a_tracker_whose_library_exits_is_dropped_too() -> None:
    failing = Failing("steps", SystemExit("no key"))
    assert "was dropped (no key)" in drop_note(failing, lambda tracked: tracked.steps([{"step": 1}]))


def test_one_tracker_fails_and_another_is_told_everything() -> None:
    notes: list[str] = []
    good = Recorder()
    tracked = Tracking({"bad": Failing("start", OSError("no space left")), "good": good}, notes.append)
    with tracked.of(RUN, lambda text: None):
        tracked.steps([{"step": 1, "loss": float("nan"), "canvas": "64x96", "seen": True}])
        tracked.evaluation(1, {"AP": 0.5, "APs": -1.0})
    assert notes == ["note: the tracker bad was dropped (no space left); the run goes on without it"]
    assert good.names() == ["start", "step", "evaluation", "end"]
    step, evaluated = good.told[1][1], good.told[2][1]
    assert isinstance(step, Line)
    assert list(step.numbers) == ["train/loss"]
    assert evaluated == Line(1, {"val/AP": 0.5})


# ---- opening, settings, ids ----


def test_the_knob_names_what_can_be_opened() -> None:
    ((names, _),) = (get_args(get_type_hints(RunConfig)[name]) for name in ("trackers",))
    assert KINDS.keys() == set(get_args(names))


def test_no_package_of_a_tracker_is_imported_unless_asked_for() -> None:
    names = [kind.module for kind in KINDS.values()]
    program = (
        f"import sys, gfl.train, gfl.record.trackers.opening as o; o.open_trackers(()); names = {names}\n"
        "print([name for name in [*names, 'tensorboard'] if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_package_that_is_broken_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TypeError("Descriptors cannot be created directly.\nIf this call came from a _pb2.py file")

    monkeypatch.setattr(opening, "import_package", broken)
    with pytest.raises(InputError, match=r"'wandb', whose package does not work \(Descriptors .* directly\); call"):
        open_trackers(["wandb"])


def test_settings_are_flat() -> None:
    settings = flat_settings(tiny.run_config(OptimConfig(lr=0.5)))
    assert (settings["optim.lr"], settings["detector.backbone.depth"], settings["data.root"]) == (
        "0.5",
        "18",
        "data/coco",
    )
    assert "optim" not in settings


def test_ids_are_kept_and_a_broken_file_of_them_is_none(tmp_path: Path) -> None:
    assert stored_id(tmp_path, "mlflow") is None
    store_id(tmp_path, "mlflow", "7")
    store_id(tmp_path, "wandb", "8")
    assert (stored_id(tmp_path, "mlflow"), stored_id(tmp_path, "wandb")) == ("7", "8")
    (tmp_path / "trackers.json").write_text("[")
    assert stored_id(tmp_path, "mlflow") is None
    store_id(tmp_path, "wandb", "9")
    assert stored_id(tmp_path, "wandb") == "9"
