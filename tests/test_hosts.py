"""Runs over two hosts that lose a rank or a host come back by themselves, with the bits of a run never interrupted.

Two agents of torchrun on this machine stand for two hosts; tensors go over gloo.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import documents
import pytest
import tiny
from tiny import train_arguments
from torch.distributed import HashStore, Store

from gfl.engine import ranks
from gfl.engine.checkpoints import read_state

ROOT = Path(__file__).resolve().parent.parent
RUN_S = 240.0
KNOBS = ("BATCH_SIZE = 4", "EPOCHS = 4", "SAVE_EVERY = 2", "EVAL_EVERY = 2", "EMA = 0.5", "WORKERS = 0")
STEPS = 12


# ---- the meeting of ranks ----


def test_restarted_ranks_meet_apart_from_those_before_them() -> None:
    """In the store that both share, where the first came early and left its name and its list."""
    shared = HashStore()
    for _ in range(2):
        parts: dict[int, Store] = {}

        def meet(rank: int, parts: dict[int, Store] = parts) -> None:
            parts[rank] = ranks._own_part(shared, rank, 2)

        threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert parts[0].add("failed", 1) == 1
        assert parts[1].add("failed", 1) == 2


def test_a_rank_whose_peer_left_only_a_name_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "JOIN_TIMEOUT", ranks.timedelta(seconds=0.3))
    shared = HashStore()
    shared.set("name/1", "of a process that is gone")
    with pytest.raises(TimeoutError):
        ranks._own_part(shared, 0, 2)


# ---- two hosts ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def torchrun(*command: str, **variables: str) -> subprocess.Popen[bytes]:
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command],
        cwd=ROOT,
        env={**surroundings, **variables},
        stdout=subprocess.DEVNULL,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that must end well; pytest shows what it said on stderr."""
    assert process.wait(RUN_S) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("hosts") / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks that nothing interrupted."""
    run = tmp_path_factory.mktemp("hosts") / "whole"
    end(torchrun("--standalone", "--nproc_per_node=2", "-m", "gfl.train", *train_arguments(data, run, *KNOBS)))
    return run


def assert_equal_runs(run: Path, expected: Path) -> None:
    """Every tensor of the last checkpoint to the bit, and each step once in the log."""
    saved, wanted = read_state(run / "last.pt"), read_state(expected / "last.pt")
    assert saved["cursor"] == wanted["cursor"]
    assert saved["cursor"]["step"] == STEPS  # type: ignore[index]
    for name in ("variables", "ema", "optimiser"):
        tiny.assert_equal_bits(saved[name], wanted[name])
    steps, others = ([line["step"] for line in tiny.log_lines(each)] for each in (run, expected))
    assert steps == others


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["kill", "host", "agent"])
def test_a_run_over_two_hosts_comes_back(lost: str, data: Path, whole: Path, tmp_path: Path) -> None:
    """One loses its rank, its rank and its agent, or its agent alone; an agent that is gone is started anew once."""
    run, port = tmp_path / "run", free_port()
    program = [str(ROOT / "tests" / "support" / "failing_run.py"), lost, "1", "6", "--"]
    arguments = train_arguments(data, run, *KNOBS, flags=("--resume", "auto"))

    def start(host: int) -> subprocess.Popen[bytes]:
        flags = ["--nnodes=2", "--nproc_per_node=1", "--max_restarts=3", "--rdzv_backend=c10d", "--rdzv_id=test"]
        flags += [f"--rdzv_endpoint=localhost:{port}", f"--rdzv_conf=is_host={host == 0}", "--local_addr=localhost"]
        # Shared with the ranks, an agent's store keeps from a new agent where to meet.
        variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if lost != "kill" else {}
        return torchrun(*flags, *program, *arguments, FAIL_ONCE=str(tmp_path / "failed"), **variables)

    hosts = [start(0), start(1)]
    try:
        if lost != "kill":
            assert hosts[1].wait(RUN_S) == -signal.SIGKILL
            assert read_state(run / "last.pt")["cursor"]["step"] == 4  # type: ignore[index]
            hosts[1] = start(1)
        for host in hosts:
            end(host)
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    assert (tmp_path / "failed").exists()
    assert_equal_runs(run, whole)


# ---- Ray ----


@pytest.mark.slow
def test_rays_trainer_gives_the_bits_of_torchrun(data: Path, whole: Path, tmp_path: Path) -> None:
    """The block of docs/scale.md, word for word but for the arguments and the folders."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.train.torch")
    (block,) = [block for block in documents.blocks("docs/scale.md") if "TorchTrainer" in block.text]
    run, short = tmp_path / "run", Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets have short paths
    arguments = train_arguments(data, run, *KNOBS, flags=("--resume", "auto"))
    (line,) = [line for line in block.text.splitlines() if line.startswith("arguments = ")]
    text = block.text.replace(line, f"arguments = {arguments!r}").replace("/shared", str(short))
    text = text.replace(
        "ray.init(", f"ray.init(num_cpus=4, _temp_dir={str(short)!r}, object_store_memory=100_000_000, "
    )
    program = tmp_path / "program.py"
    program.write_text(text)
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    surroundings["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    try:
        done = subprocess.run(
            [sys.executable, str(program)], env=surroundings, capture_output=True, text=True, timeout=RUN_S
        )
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert done.returncode == 0, f"{ray.__version__}: {done.stderr[-3000:]}"
    assert_equal_runs(run, whole)
