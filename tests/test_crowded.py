"""gfl/engine/crowded.py: threads of OpenMP sleep early while other programs want the cores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gfl.engine import crowded
from gfl.engine.crowded import pools_needed, waited_s, yielding_on_crowded_cores


def idle_threads() -> int:
    return sum(thread.name == "idle" for thread in threading.enumerate())


def until(happens: Callable[[], bool]) -> bool:
    """Whether it happens within ten seconds."""
    end = time.monotonic() + 10
    while not happens() and time.monotonic() < end:
        time.sleep(0.005)
    return happens()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in crowded.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(crowded, "usable_cores", lambda: 2)
    monkeypatch.setattr(crowded, "EVERY_S", 0.01)


@pytest.mark.usefixtures("two_threads")
def test_idle_threads_are_kept_while_threads_wait_for_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    held_up = True
    waits = [0.0]

    def waited() -> float:  # as long as the time that passes, while held up
        if held_up:
            waits[0] = time.monotonic() - started
        return waits[0]

    monkeypatch.setattr(crowded, "waited_s", waited)
    with yielding_on_crowded_cores():
        assert until(lambda: idle_threads() == 1)
        held_up = False
        assert until(lambda: idle_threads() == 0)
        held_up = True
        assert until(lambda: idle_threads() == 1)
    assert until(lambda: idle_threads() == 0)


@pytest.mark.usefixtures("two_threads")
def test_free_cores_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(crowded, "waited_s", lambda: looks.append(idle_threads()) or 0.0)
    with yielding_on_crowded_cores():
        assert until(lambda: len(looks) > 10)
    assert not any(looks)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", crowded.CHOSEN)
def test_choice_of_the_user_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1000")
    with yielding_on_crowded_cores():
        assert all(thread.name != "crowded" for thread in threading.enumerate())


@pytest.mark.parametrize(("threads", "cores", "pools"), [(2, 2, 1), (2, 16, 15), (8, 16, 2), (16, 16, 1), (16, 8, 1)])
def test_process_has_more_threads_than_cores_with_the_pools(threads: int, cores: int, pools: int) -> None:
    assert pools_needed(threads, cores) == pools
    assert threads + pools * (threads - 1) > cores


def test_waits_of_all_threads_are_added(tmp_path: Path) -> None:
    for task, text in {"1": "7 1500000000 3", "2": "9 500000000 3", "3": ""}.items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(text)
    assert waited_s(tmp_path) == pytest.approx(2.0)
    assert waited_s(tmp_path / "not there") is None
