"""Trackers against their real local back ends: what a run told them is read back by their own packages."""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tiny
from tiny import log_lines, train_arguments

from gfl import train
from gfl.errors import InputError
from gfl.record.trackers.interface import Started, stored_id
from gfl.record.trackers.opening import open_trackers
from gfl.record.trackers.tracking import Tracking

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that are not this project's

# Two epochs of four steps, killed in the sixth; it goes on from the fourth.
BINDINGS = ("EPOCHS = 2", tiny.SEES_EVERYTHING)
STEPS, EVALUATIONS = list(range(1, 9)), [4, 8]


@pytest.fixture(autouse=True, scope="module")
def trackio_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trackio reads where its store is when it is first imported: for all tests here the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


class Killed(BaseException):
    """What no run catches."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("trackers") / "data")


def killed_at(call: int, function: Callable[..., object]) -> Callable[..., object]:
    calls = iter(range(1, 1000))

    def failing(*arguments: object, **options: object) -> object:
        if next(calls) == call:
            raise Killed
        return function(*arguments, **options)

    return failing


def resumed_run(name: str, data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracked run that was killed in its sixth step and went on, with more settings."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "step", killed_at(6, train.step))
        with pytest.raises(Killed):
            train.main(train_arguments(data, run, *BINDINGS, f"TRACKERS = ({name!r},)"))
    assert train.main(["--resume", "--workdir", str(run), "--gin_bindings", "CLIP = 11.0"]) == 0
    said = (run / "train.log").read_text()
    assert "was dropped" not in said
    assert said.count(f"tracker {name}") == 2
    return run


def logged(run: Path, name: str) -> list[float]:
    """The numbers of that name in log.jsonl."""
    return [float(str(line[name])) for line in log_lines(run) if name in line]


# ---- TensorBoard ----


def test_tensorboard_shows_each_step_once_and_the_settings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = resumed_run("tensorboard", data, tmp_path / "run", monkeypatch)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    loss, ap = events.Scalars("train/loss"), events.Scalars("val/AP")
    assert ([each.step for each in loss], [each.step for each in ap]) == (STEPS, EVALUATIONS)
    assert [each.value for each in loss] == pytest.approx(logged(run, "loss"))
    assert [each.value for each in ap] == pytest.approx(logged(run, "AP"))
    assert {"train/lr", "train/img_per_s", "val/AP50"} <= set(events.Tags()["scalars"])
    settings = events.Tensors("settings/text_summary")
    assert b"| optim.clip | 11.0 |" in settings[-1].tensor_proto.string_val[0]
    assert "torchvision" not in sys.modules


@pytest.mark.slow
def test_of_two_ranks_the_first_alone_tracks(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    arguments = train_arguments(data, run, "TRACKERS = ('tensorboard',)")
    variables = {**os.environ, "PYTHONPATH": str(Path(train.__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "-m", "gfl.train", *arguments], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tracker tensorboard") == 1
    assert len(list((run / "tensorboard").iterdir())) == 1


# ---- what is not finite ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_a_loss_that_is_not_finite_drops_no_tracker(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    notes: list[str] = []
    tracking = Tracking(open_trackers([name]), notes.append)
    with tracking.of(Started(tmp_path, {"optim.lr": "0.01"}, 0), lambda text: None):
        tracking.steps([{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 1.0}])
    assert notes == []


# ---- MLflow ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    package: ModuleType = pytest.importorskip("mlflow")
    return package


@pytest.fixture
def server(
    tmp_path: Path, mlflow: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Callable[[], None]]]:
    """An MLflow server on loopback: its address, and what ends it."""
    port = free_port()
    address, store = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path / 'server.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--workers", "1", "--artifacts-destination", str(tmp_path / "artifacts")]
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)

    def end() -> None:
        if process.poll() is None:
            os.killpg(process.pid, 9)  # its workers are of its own session
            process.wait()

    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).read()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.25)
        else:
            pytest.fail((tmp_path / "server.log").read_text())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address, end
    finally:
        end()


def assert_mlflow_has(package: ModuleType, run: Path, uri: str) -> None:
    client = package.MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "gfl"]
    (found,) = client.search_runs([experiment.experiment_id])  # both parts of the run are one
    assert found.info.run_id == stored_id(run, "mlflow")
    assert (found.info.status, found.data.params["optim.lr"]) == ("FINISHED", "0.004")
    assert (found.data.params["optim.clip"], found.data.tags["optim.clip since step 4"]) == ("10.0", "11.0")
    losses = {each.step: each.value for each in client.get_metric_history(found.info.run_id, "train/loss")}
    aps = {each.step: each.value for each in client.get_metric_history(found.info.run_id, "val/AP")}
    assert (sorted(losses), sorted(aps)) == (STEPS, EVALUATIONS)
    assert [losses[step] for step in STEPS] == pytest.approx(logged(run, "loss"))
    assert [aps[step] for step in EVALUATIONS] == pytest.approx(logged(run, "AP"))


@pytest.mark.slow
def test_an_mlflow_server_has_the_run_under_one_id(
    server: tuple[str, Callable[[], None]],
    mlflow: ModuleType,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = resumed_run("mlflow", data, tmp_path / "run", monkeypatch)
    assert_mlflow_has(mlflow, run, server[0])


@pytest.mark.slow
def test_an_mlflow_server_that_goes_away_is_dropped_and_the_run_ends_well(
    server: tuple[str, Callable[[], None]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"):
        monkeypatch.setenv(variable, "1")
    usual, calls = train.step, iter(range(1, 1000))

    def step(*given: object, **more: object) -> object:
        if next(calls) == 3:
            server[1]()
        return usual(*given, **more)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(train, "step", step)
    arguments = train_arguments(data, tmp_path / "run", *BINDINGS, "TRACKERS = ('mlflow',)")
    assert train.main(arguments) == 0
    assert (tmp_path / "run" / "train.log").read_text().count("note: the tracker mlflow was dropped (") == 1
    assert len(logged(tmp_path / "run", "loss")) == 8


@pytest.mark.slow
def test_mlflow_without_a_server_has_the_run_in_its_store(
    mlflow: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = resumed_run("mlflow", data, tmp_path / "run", monkeypatch)
    assert_mlflow_has(mlflow, run, uri)


# ---- Weights & Biases ----

FILE_HEADER, BLOCK, RECORD_HEADER, LAST_PARTS = 7, 32768, 7, (1, 4)  # of a .wandb file: LevelDB's log format


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of an offline run's file, of which wandb ships no reader in Python."""
    position, record = FILE_HEADER, b""
    while position + RECORD_HEADER <= len(content):
        if BLOCK - position % BLOCK < RECORD_HEADER:  # the rest of a block is too short for a header
            position += BLOCK - position % BLOCK
            continue
        _, length, part = struct.unpack_from("<IHB", content, position)
        position += RECORD_HEADER
        record += content[position : position + length]
        position += length
        if part in LAST_PARTS:
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_offline_leaves_the_run_in_its_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = resumed_run("wandb", data, tmp_path / "run", monkeypatch)
    files = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = stored_id(run, "wandb")
    assert [path.stem for path in files] == [f"run-{run_id}"] * 2
    rows: dict[int, dict[str, float]] = {}
    for path in files:
        for content in wandb_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: float(item.value_json) for item in record.history.item}
                rows.setdefault(int(items["_step"]), {}).update(items)
    assert [rows[step]["train/loss"] for step in STEPS] == pytest.approx(logged(run, "loss"))
    assert [rows[step]["val/AP"] for step in EVALUATIONS] == pytest.approx(logged(run, "AP"))


def test_wandb_without_a_key_is_refused_before_it_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match=r"'wandb', which knows no key .* WANDB_MODE=offline"):
        open_trackers(["wandb"])


# ---- Trackio ----


@pytest.mark.slow
def test_trackio_has_the_run_in_its_local_store(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run = resumed_run("trackio", data, tmp_path / "run", monkeypatch)
    (found,) = [each for each in trackio.Api().runs("gfl") if each.name == stored_id(run, "trackio")]
    assert found.config["optim.lr"] == "0.004"
    rows = SQLiteStorage.get_logs("gfl", run_id=found.id)
    losses, aps = ({row["step"]: row[name] for row in rows if name in row} for name in ("train/loss", "val/AP"))
    assert (sorted(losses), sorted(aps)) == (STEPS, EVALUATIONS)
    assert [losses[step] for step in STEPS] == pytest.approx(logged(run, "loss"))
    assert [aps[step] for step in EVALUATIONS] == pytest.approx(logged(run, "AP"))
