"""The server under load by tools that others wrote: wrk for many pictures, locust for clients of all kinds at once."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_onnx import write_onnx

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from http_server import noise  # it needs it

from benchmarks.mixed import Mixed, run_mixed
from benchmarks.serving import put_under_load, run_infer, serving, write_bodies

CLIENTS, SECONDS = 64, 60
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def requests(model: Path, tmp_path: Path) -> Path:
    """A folder of requests, and the answers that they must have."""
    images, folder = tmp_path / "images", tmp_path / "requests"
    images.mkdir()
    folder.mkdir()
    for i in range(40):
        (images / f"{i:02}.png").write_bytes(noise(140 + i, 230 - i, seed=i))
    rows, _ = run_infer(model, images, tmp_path / "found")
    write_bodies(rows, images, folder)
    return folder


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_each_of_many_requests_is_answered_once_by_infers_row_in_flat_memory(model: Path, requests: Path) -> None:
    with serving(model) as server:
        load = put_under_load(server, requests, CLIENTS, SECONDS)
        assert server.end() == (0, "")
    print(load)
    assert load.requests > 20 * SECONDS
    assert (load.wrong, load.failed) == (0, 0)
    assert load.requests <= load.served <= load.requests + CLIENTS
    assert load.end_mb - load.warm_mb < 20


@pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed")
def test_nothing_is_lost_among_bad_clients_when_the_server_is_told_to_end(model: Path, requests: Path) -> None:
    mixed: Mixed = run_mixed(model, requests, CLIENTS, SECONDS)
    print(mixed)
    seen = {kind: set(outcomes) - {"503", "unanswered"} for kind, outcomes in mixed.outcomes.items()}
    assert seen == {
        "picture": {"200"},
        "no picture": {"422"},
        "too large": {"413"},
        "slow picture": {"200"},
        "endless": {"408"},
    }
    assert mixed.left_early > 0
    assert mixed.unanswered_early == 0
    assert mixed.lost == {}
    assert (mixed.exit_code, mixed.stderr) == (0, "")
    assert mixed.end_mb - mixed.warm_mb < 20
