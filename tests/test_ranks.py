"""Several ranks as real processes over gloo: they train as one does, fail as one does, and go on where another stopped.

Python objects go over gloo on every device; nccl and hccl are not met here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import rank_parts
import tiny
import torch
import torch.distributed
from tiny import log_lines, run_training, train_arguments
from torch import Tensor

from gfl import train
from gfl.config import read_run
from gfl.data.coco import read_coco
from gfl.data.plan import fingerprint
from gfl.engine import ranks as ranks_module
from gfl.engine.checkpoints import read_state
from gfl.engine.ranks import Ranks, join, pictures_a_rank
from gfl.errors import InputError
from gfl.model.structures import Batch

ROOT = Path(__file__).resolve().parent.parent
MINUTE = 60.0
# A sum over two ranks is rounded in another order than over one; steps carry it on.
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}
LOG_ROUNDING = {"rel": 1e-4, "abs": 1e-6}
# Two epochs of three batches of four pictures, half of them blank in two; the averaged weights are evaluated.
KNOBS = (
    "BATCH_SIZE = 4",
    "EPOCHS = 2",
    "SAVE_EVERY = 2",
    "OPTIMIZER = 'sgd'",
    "LR = 0.2",
    "EMA = 0.5",
    tiny.SEES_EVERYTHING,
)
STEPS = 6


# ---- processes ----


def environment(**more: str) -> dict[str, str]:
    """This process's, for a child that finds the project and takes one core."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        **more,
    }


def launcher(*flags: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *flags]


def torchrun(*program: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """A program on the ranks of one host; it must end within two minutes, however it ends."""
    command = [*launcher("--standalone", f"--nproc_per_node={ranks}"), *program]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=2 * MINUTE)


def by_hand(*program: str, ranks: int = 2) -> list[subprocess.Popen[str]]:
    """A program's ranks without torchrun: nobody ends the others when one fails."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, *program],
            cwd=ROOT,
            env=environment(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="localhost", MASTER_PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def ends(processes: Sequence[subprocess.Popen[str]], timeout_s: float = MINUTE) -> list[tuple[int, str]]:
    """The exit code of each and what it said on stderr."""
    try:
        said = [process.communicate(timeout=timeout_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


# ---- a step of two ranks is a step on the whole batch ----


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What the two ranks of rank_parts.py computed."""
    folder = tmp_path_factory.mktemp("parts")
    done = torchrun(str(ROOT / "tests" / "support" / "rank_parts.py"), str(folder))
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def case_of(part: Mapping[str, object], name: str) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    case = part[name]
    assert isinstance(case, dict)
    return case["state"], case["metrics"]


QUICK = ("boxes_everywhere", "rank_without_a_picture")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in rank_parts.CASES]
)
def test_two_ranks_step_as_one_does_on_the_whole_batch(name: str, parts: list[dict[str, object]]) -> None:
    columns = zip(*rank_parts.CASES[name], strict=True)
    batches = [join_batches([rank_parts.batch_of(seed) for seed in column]) for column in columns]
    alone = rank_parts.run_case(Ranks(), batches)
    expected, expected_metrics = case_of({name: alone}, name)
    state, metrics = case_of(parts[0], name)
    assert state.keys() == expected.keys()
    for path, tensor in state.items():
        torch.testing.assert_close(tensor, expected[path], **ROUNDING, msg=lambda text, path=path: f"{path}: {text}")
    for found, wanted in zip(metrics, expected_metrics, strict=True):
        assert found == pytest.approx(wanted, **LOG_ROUNDING)
    start = tiny.tensors_of(rank_parts.make(Ranks(), rank_parts.config()).module.leaves())
    moved = [path for path in start if not torch.equal(start[path], state[f"/variables{path}"])]
    assert moved  # the comparison would hold for ranks that did nothing, too


def join_batches(batches: Sequence[Batch]) -> Batch:
    return Batch(*(torch.cat(column) for column in zip(*batches, strict=True)))


@pytest.mark.parametrize("name", rank_parts.CASES)
def test_ranks_keep_equal_bits(name: str, parts: list[dict[str, object]]) -> None:
    """Parameters, momentum and averaged weights."""
    tiny.assert_equal_bits(*(case_of(part, name)[0] for part in parts))


@pytest.mark.parametrize("when", ["overflow", "late_overflow"])
def test_an_overflow_on_one_rank_skips_the_step_on_all(when: str, parts: list[dict[str, object]]) -> None:
    for part in parts:
        overflow = part[when]
        assert isinstance(overflow, dict)
        assert overflow["skipped"] == 1.0
        kept = [path for path in overflow["before"] if path.startswith(("/variables", "/ema", "/optimiser"))]
        assert len(kept) > 100
        assert [path for path in kept if not torch.equal(overflow["before"][path], overflow["after"][path])] == []


def test_what_passes_between_ranks(parts: list[dict[str, object]]) -> None:
    assert [part["maximum"] for part in parts] == [1.0, 1.0]
    assert [part["broadcast"] for part in parts] == ["made by 0", "made by 0"]
    assert [part["gathered"] for part in parts] == [[0, 1], []]


def test_two_ranks_agree_under_o1_in_real_float16(parts: list[dict[str, object]]) -> None:
    """With each other to the bit, with one rank on the whole batch to the rounding of float16."""
    tiny.assert_equal_bits(*(case_of(part, "half")[0] for part in parts))
    batch = join_batches([rank_parts.batch_of(seed) for (seed,) in rank_parts.CASES["boxes_everywhere"]])
    alone = rank_parts.run_case(Ranks(), [batch], "o1")
    full, _ = case_of(parts[0], "boxes_everywhere")
    _, metrics = case_of(parts[0], "half")
    for found, wanted in zip(metrics, case_of({"o1": alone}, "o1")[1], strict=True):
        assert found == pytest.approx(wanted, rel=1e-2)
        assert found["skipped"] == 0
    assert any(not torch.equal(tensor, full[path]) for path, tensor in case_of(parts[0], "half")[0].items())


@pytest.mark.slow
def test_compiled_ranks_step_as_plain_ones_by_one_graph(parts: list[dict[str, object]], tmp_path: Path) -> None:
    """With the exchange of the normalisers in it, and not cut where DDP's buckets end."""
    done = torchrun(str(ROOT / "tests" / "support" / "rank_parts.py"), str(tmp_path), "aot_eager")
    assert done.returncode == 0, done.stderr
    compiled = torch.load(tmp_path / "0.pt", weights_only=True)["aot_eager"]
    assert compiled["graphs"] == 1
    expected = case_of(parts[0], "rank_without_a_box")[1]
    for found, wanted in zip(compiled["metrics"], expected, strict=True):
        assert found == pytest.approx(wanted, **LOG_ROUNDING)


# ---- a run of two ranks is the run of one ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which one to train on and one to evaluate on are missing."""
    folder = tiny.write_data(tmp_path_factory.mktemp("distributed") / "data")
    for split in ("train2017", "val2017"):
        sorted((folder / split).iterdir())[1].unlink()
    return folder


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one rank, and no ranks."""
    folder = run_training(data, tmp_path_factory.mktemp("distributed") / "one", *KNOBS)
    assert not torch.distributed.is_initialized()
    return folder


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run of two ranks, and what it said; the first counts beside its steps, for which the other does not wait."""
    folder = tmp_path_factory.mktemp("distributed") / "two"
    done = torchrun("-m", "gfl.train", *train_arguments(data, folder, *KNOBS, "EVAL_IN_BACKGROUND = True"))
    assert done.returncode == 0, done.stderr
    return folder, done


def assert_same_run(run: Path, expected: Path) -> None:
    """Equal to rounding: the last checkpoint, every line of the log, and the evaluation."""
    saved, wanted = read_state(run / "last.pt"), read_state(expected / "last.pt")
    assert saved["cursor"] == wanted["cursor"]
    assert saved["cursor"]["step"] == STEPS  # type: ignore[index]
    for name in ("variables", "ema", "optimiser"):
        tensors, others = tiny.tensors_of(saved[name]), tiny.tensors_of(wanted[name])
        assert tensors.keys() == others.keys()
        for path, tensor in tensors.items():
            torch.testing.assert_close(tensor, others[path], **ROUNDING, msg=lambda text, path=path: f"{path}: {text}")
    lines, others = log_lines(run), log_lines(expected)
    assert len(lines) == len(others) == STEPS + 2
    for line, other in zip(lines, others, strict=True):
        assert line.get("canvas") == other.get("canvas")
        assert numbers(line) == pytest.approx(numbers(other), **LOG_ROUNDING)
    assert_same_detections(run, expected)


def numbers(line: Mapping[str, object]) -> dict[str, object]:
    """What a line of the log measures, but for the speeds."""
    return {key: value for key, value in line.items() if key not in ("canvas", "img_per_s", "data_wait")}


def assert_same_detections(run: Path, expected: Path) -> None:
    found, wanted = (json.loads((folder / "val_detections.json").read_text()) for folder in (run, expected))
    assert [each["image_id"] for each in found] == [each["image_id"] for each in wanted]
    assert {each["image_id"] for each in found} == {1, 3}  # the second is missing
    scores, others = ([each["score"] for each in each_found] for each_found in (found, wanted))
    assert scores == pytest.approx(others, rel=1e-3, abs=1e-6)


def test_two_ranks_leave_the_run_of_one(two: tuple[Path, object], one: Path) -> None:
    assert_same_run(two[0], one)
    assert {path.name for path in two[0].iterdir()} == {path.name for path in one.iterdir()}
    assert json.loads((two[0] / "metrics.json").read_text())["images"] == tiny.VAL_PICTURES
    assert json.loads((two[0] / "env.json").read_text())["ranks"] == 2


def test_one_rank_speaks(two: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    said = two[1].stdout.splitlines()
    for beginning in ("GFLV2", "ranks   2 over gloo | 2 images each", "run", "val   2/2", "the run is in"):
        assert len([line for line in said if line.startswith(beginning)]) == 1, beginning
    assert len([line for line in said if line.startswith("passed over (1 so far)")]) == 1
    assert len([line for line in said if line.startswith("without detections")]) == 2  # once an evaluation
    assert "Warning" not in two[1].stderr


# ---- failures ----


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks of which the second was killed in its sixth step.

    The first took part in the fifth, so it has written the checkpoint of step 4.
    """
    folder = tmp_path_factory.mktemp("distributed") / "killed"
    done = torchrun(*failing("kill", 1, 6, data, folder, "WORKERS = 1"))  # a worker outlives its rank
    assert time.time() - (folder / "last.pt").stat().st_mtime < MINUTE
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    assert read_state(folder / "last.pt")["cursor"]["step"] == 4  # type: ignore[index]
    return folder


def failing(how: str, rank: int, step: int, data: Path, folder: Path, *bindings: str) -> list[str]:
    """The arguments of a program that trains until a rank fails in a step."""
    program = str(ROOT / "tests" / "support" / "failing_run.py")
    return [program, how, str(rank), str(step), "--", *train_arguments(data, folder, *KNOBS, *bindings)]


def test_one_rank_goes_on_with_a_run_of_two_that_was_killed(killed: Path, one: Path, tmp_path: Path) -> None:
    run = shutil.copytree(killed, tmp_path / "run")
    assert train.main(["--resume", "--workdir", str(run), "--gin_bindings", "WORKERS = 0"]) == 0
    assert_same_run(run, one)


@pytest.mark.slow
def test_two_hosts_go_on_with_a_killed_run(killed: Path, one: Path, tmp_path: Path) -> None:
    """Two agents with one rendezvous, a rank each."""
    run = shutil.copytree(killed, tmp_path / "run")
    meeting = f"localhost:{free_port()}"
    command = launcher("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={meeting}")
    command += ["--rdzv_id=test", "--local_addr=localhost", "-m", "gfl.train", "--resume", "--workdir", str(run)]
    command += ["--gin_bindings", "WORKERS = 0"]
    pipe = subprocess.PIPE
    hosts = [
        subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True) for _ in range(2)
    ]
    for code, said in ends(hosts, 2 * MINUTE):
        assert code == 0, said
    assert json.loads((run / "env.json").read_text())["ranks"] == 2
    assert_same_run(run, one)


@pytest.mark.slow
def test_two_ranks_go_on_with_a_run_of_one(
    data: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = train_arguments(data, tmp_path / "run", *KNOBS)
    with monkeypatch.context() as patch:
        patch.setattr(train, "step", stopped_after(3))
        with pytest.raises(KeyError, match="stopped"):
            train.main(arguments)
    assert read_state(tmp_path / "run" / "last.pt")["cursor"]["step"] == 3  # type: ignore[index]
    done = torchrun("-m", "gfl.train", "--resume", "--workdir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", one)


def stopped_after(steps: int) -> Callable[..., object]:
    """`train.step`, but the call after so many ends the run."""
    calls, step = iter(range(steps)), train.step

    def counted(*given: object) -> object:
        if next(calls, None) is None:
            raise KeyError("stopped")
        return step(*given)  # type: ignore[arg-type]  # as they came

    return counted


def test_a_mistake_of_the_start_is_told_once(data: Path, tmp_path: Path) -> None:
    done = torchrun("-m", "gfl.train", *train_arguments(data, tmp_path / "run", "BATCH_SIZE = 3"))
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: got BATCH_SIZE = 3 on 2 devices with ACCUMULATE = 1, expected a multiple of 2: it counts the pictures "
        "of a step over all of them; set it to 4"
    ]
    assert "exitcode  : 2" in done.stderr  # as torchrun reports its ranks
    assert "gfl/train.py" not in done.stderr  # no traceback of a rank
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "code", "told"),
    [
        ("refuse", 2, "error: got a mistake, expected none; mend it\n"),
        pytest.param("crash", 1, "RuntimeError: a bug of the test", marks=pytest.mark.slow),
    ],
)
def test_what_fails_on_one_rank_is_told_once_and_ends_all(
    how: str, code: int, told: str, data: Path, tmp_path: Path
) -> None:
    """Without torchrun, which would end the others anyway; a worker holds copies of its rank's connections."""
    first, second = ends(by_hand(*failing(how, 1, 2, data, tmp_path / "run", "WORKERS = 1")))
    assert second[0] == code
    assert second[1].count(told) == 1
    assert first[0] != 0
    assert first[1] == ""
    assert not (tmp_path / "run" / ".lock").exists()


def test_ranks_agree_on_the_step_at_which_a_signal_ends_them(data: Path, one: Path, tmp_path: Path) -> None:
    """One is told to end in the first step; they meet once every LOG_EVERY steps."""
    run = tmp_path / "run"
    arguments = failing("term", 1, 2, data, run, "WORKERS = 1", "LOG_EVERY = 2", "EVAL_EVERY = 0", "SAVE_EVERY = 0")
    go_on = f"  go on     torchrun ... -m gfl.train --resume --workdir {run}\n"
    first = f"\nstopped\nthe run is in {run}: last.pt is after 2 steps\n{go_on}"
    sentences = (first, f"\nstopped; go on with --resume --workdir {run}\n")  # whichever rank is the first to end
    for code, said in ends(by_hand(*arguments)):
        assert code == 143
        assert said in ("", *sentences) or "TCPStore" in said  # torch may warn that the other rank was gone first
        assert "Traceback" not in said
    assert read_state(run / "last.pt")["cursor"]["step"] == 2  # type: ignore[index]
    assert not (run / ".lock").exists()


def test_a_rank_that_waits_for_its_device_learns_that_another_is_gone() -> None:
    """A device's own backend may not notice; here no backend is waited for."""
    program = """
import os, time
from gfl.engine.ranks import join
ranks = join()
time.sleep(600 if ranks.first else 1)
os._exit(9)
"""
    (code, said), _ = ends(by_hand("-c", program))
    assert code == 1
    assert said == "error: rank 1 of 2 is gone; go on with --resume --workdir of this run\n"


def test_ranks_that_do_not_come_are_waited_for_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "JOIN_TIMEOUT", ranks_module.timedelta(seconds=1))
    surroundings = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="the 2 ranks of this run did not meet within 1 s"):
        join()


# ---- alone, and what is refused ----


def test_without_torchrun_a_run_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    ranks = join()
    assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    values = torch.ones(2)
    assert ranks.mean(values) is values
    assert ranks.maximum(values) is values
    assert ranks.gather_at_first(3) == [3]


def test_one_rank_of_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert join().world == 1
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("batch", "accumulate", "world", "share"), [(16, 1, 8, 2), (16, 2, 4, 2), (6, 3, 2, 1)])
def test_batch_size_counts_all_devices_and_accumulation(batch: int, accumulate: int, world: int, share: int) -> None:
    cfg = read_run([tiny.GIN_FILE], [f"BATCH_SIZE = {batch}", f"ACCUMULATE = {accumulate}"]).run
    assert pictures_a_rank(cfg, world) == share
    with pytest.raises(InputError, match=rf"expected a multiple of {world * accumulate * 5}.*set it to"):
        pictures_a_rank(cfg, world * 5)


def test_hosts_with_other_annotations_are_told_apart(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move_a_box(content: dict[str, list[dict[str, object]]]) -> None:
        content["annotations"][0]["bbox"][0] += 1  # type: ignore[index]

    other = shutil.copytree(data, tmp_path / "data")
    prints = [fingerprint(read(folder)) for folder in (data, other)]
    tiny.change_annotations(other, move_a_box, "train")
    assert prints[0] == prints[1] != fingerprint(read(other))
    ranks = Ranks()
    ranks.check_same("6 pictures", Path("train.json"))
    monkeypatch.setattr(ranks, "gather_at_first", lambda content: [content, "5 pictures"])
    with pytest.raises(InputError, match=r"rank 1 has 5 pictures in train.json and the first rank 6 pictures"):
        ranks.check_same("6 pictures", Path("train.json"))


def ranks_on(kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """The last of some ranks, which hear of each other's kinds of device."""

    def gather(found: list[str | None], own: str) -> None:
        assert own == kinds[-1]
        found[:] = kinds

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return Ranks(len(kinds) - 1, len(kinds))


def test_ranks_on_devices_of_two_kinds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """DEVICE = 'auto' where a host's driver is down: the others would wait for it in vain."""
    with pytest.raises(InputError, match="rank 2 runs on cpu and the first rank on cuda, expected one kind of device"):
        ranks_on(["cuda", "cuda", "cpu"], monkeypatch).local_device(torch.device("cpu"))


def test_a_host_with_fewer_devices_than_ranks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="got more than 1 ranks on a host with 1 cuda devices"):
        ranks_on(["cuda"] * 4, monkeypatch).local_device(torch.device("cuda"))


def read(folder: Path) -> tuple[object, ...]:
    return read_coco(tiny.annotations(folder), folder / "train2017", keep_empty=True).pictures


# ---- the demo ----


@pytest.mark.slow
def test_two_ranks_train_the_demo_to_the_ap_of_one(tmp_path: Path) -> None:
    """On two cores; a core each, so that both take as long."""
    program = ["-m", "gfl.train", "--gin_file", "demo.gin", "--gin_bindings", "DEVICE = 'cpu'", "WORKERS = 0"]
    average_precisions = []
    for name, start in (("one", [sys.executable]), ("two", launcher("--standalone", "--nproc_per_node=2"))):
        command = [*start, *program, "--workdir", str(tmp_path / name)]
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True)
        average_precisions.append(json.loads((tmp_path / name / "metrics.json").read_text())["AP"])
    assert average_precisions[0] > 0.1  # it learnt something
    assert average_precisions[1] == pytest.approx(average_precisions[0], abs=0.02)
