"""A server on loopback: its rows beside infer's, batches, refusals, bounds, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import infer_program
import numpy as np
import pytest
from mirror import WIDE, Mirror
from tiny_onnx import write_onnx

from gfl.data.picture_files import decode_picture
from gfl.runtime.open import open_model

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from http_server import JPEG, LIMITS, Answer, Client, form, noise, serving, wait_for  # they need it

from infer.serve import app, connections

SIZES = [(64, 96), (50, 90), (120, 180), (200, 100), (33, 47)]
PICTURE = noise(32, 64)
HEAD = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Client]:
    """A server of a small .onnx for two pictures a run."""
    with serving(open_model(model)) as client:
        yield client


@contextmanager
def held(batch: int = 1) -> Iterator[tuple[Mirror, threading.Event]]:
    """A model that runs only once its event is set."""
    free = threading.Event()
    try:
        yield Mirror(batch=batch, canvases=(WIDE,), before_run=lambda: wait_set(free)), free
    finally:
        free.set()


def wait_set(event: threading.Event) -> None:
    assert event.wait(20)


def count(client: Client, name: str) -> float:
    """A number of /metrics."""
    for line in client.get("/metrics").body.decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def inside(client: Client) -> int:
    return int(count(client, "gfl_queue_pictures"))


# ---- detecting ----


def test_the_rows_of_several_pictures_equal_infers(client: Client, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, size in enumerate(SIZES):
        (folder / f"{i}.png").write_bytes(noise(*size, seed=i))
    (folder / "5.png").write_bytes(b"no picture")
    flags = ["--min_score", "0.4", "--format", "jsonl"]
    assert infer_program.detect("--model", model, "--input", folder, "--output", tmp_path / "found", *flags) == 0
    lines = (tmp_path / "found" / "results.jsonl").read_text().splitlines()[1:]
    wanted = [json.loads(line) for line in lines]
    wanted[-1]["failure"] = wanted[-1]["failure"].replace(f"{folder}/", "")  # a server knows no folder
    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    assert client.detect_form(files, "?min_score=0.4").json == wanted
    assert sum(row["count"] for row in wanted) == len(SIZES)


def test_a_bare_picture_gives_the_row_of_a_form(client: Client) -> None:
    in_form = client.detect_form([("picture 1", PICTURE)])
    for kind in ("image/png", "application/octet-stream"):
        assert client.detect(PICTURE, headers={"Content-Type": kind}).json == in_form.json
    assert in_form.json[0]["file"] == "picture 1"


def test_the_address_chooses_detections(client: Client) -> None:
    def counts(query: str) -> int:
        return int(client.detect(PICTURE, query).json[0]["count"])

    assert [counts("?min_score=1"), counts("?top=1"), counts("")] == [0, 1, 1]
    with_edges = client.detect(PICTURE, "?edges=1").json[0]["detections"]
    assert [each["edge_std"] for each in with_edges] == [[0, 0, 0, 0]]


@pytest.mark.parametrize(("accept", "kind"), [("image/png", "image/png"), ("*/*", "image/jpeg")])
def test_a_drawn_picture_differs_from_the_one_that_was_sent(client: Client, accept: str, kind: str) -> None:
    headers = {**JPEG, "Accept": accept}
    queries = ("", "&top=1", "&min_score=1")
    answers = [client.detect(PICTURE, f"?format=drawn{query}", headers) for query in queries]
    assert [answer.headers["content-type"] for answer in answers] == [kind] * 3
    drawn, best, bare = (decode_picture(answer.body, "answer") for answer in answers)
    assert drawn.shape == bare.shape == (32, 64, 3)
    assert np.array_equal(drawn, best)
    assert np.any(drawn != bare)


def test_clients_that_come_together_share_batches_and_each_gets_its_own() -> None:
    mirror = Mirror(batch=8, canvases=(WIDE,))
    pictures = [bytes(cv2.imencode(".png", np.full((32, 64, 3), 10 * i, np.uint8))[1]) for i in range(1, 17)]
    with serving(mirror.model, LIMITS._replace(wait_s=0.2)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(client.detect, pictures))
        assert count(client, "gfl_batch_pictures_sum") == 16
        assert count(client, "gfl_batch_pictures_count") <= 4
    scores = [answer.json[0]["detections"][0]["score"] for answer in answers]
    assert scores == [round(float(np.float32(10 * i / 255)), 5) for i in range(1, 17)]


def test_a_large_file_of_a_form_stays_in_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    large = noise(550, 600)
    assert 900_000 < len(large) < 2**20

    def refuse(*arguments: object) -> None:
        raise AssertionError("a picture was written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    assert client.detect_form([("large.png", large)]).status == 200


# ---- what is refused ----


REFUSED: list[tuple[int, str, Callable[[Client], Answer]]] = [
    (422, "cannot be decoded", lambda client: client.detect(b"no picture")),
    (422, "truncated", lambda client: client.detect(PICTURE[:-20])),
    (422, "empty picture", lambda client: client.detect(b"")),
    (422, "1,001,000 pixels", lambda client: client.detect(bytes(cv2.imencode(".png", np.zeros((1001, 1000)))[1]))),
    (422, "empty picture", lambda client: client.detect_form([("a.png", PICTURE), ("b.png", b"")])),
    (422, "form without a file", lambda client: client.detect_form([])),
    (415, "'gzip'", lambda client: client.detect(PICTURE, headers={**JPEG, "Content-Encoding": "gzip"})),
    (422, "form that cannot be read", lambda client: client.send("POST", "/detect", b"x", form([])[1])),
    (422, "min_score from 0 to 1", lambda client: client.detect(PICTURE, "?min_score=50")),
    (422, "whole number for top", lambda client: client.detect(PICTURE, "?top=x")),
    (422, "at least 1", lambda client: client.detect(PICTURE, "?top=0")),
    (422, "json or drawn", lambda client: client.detect(PICTURE, "?format=xml")),
    (422, "0 or 1", lambda client: client.detect(PICTURE, "?edges=2")),
    (422, "'score'", lambda client: client.detect(PICTURE, "?score=1")),
    (413, "more than 1 MB", lambda client: client.detect(bytes(2**20 + 1))),
    (413, "33 pictures", lambda client: client.detect_form([("a.png", PICTURE)] * 33)),
    (415, "text/plain", lambda client: client.detect(PICTURE, headers={"Content-Type": "text/plain"})),
    (415, "of none", lambda client: client.detect(PICTURE, headers={})),
    (404, "/nothing", lambda client: client.get("/nothing")),
    (404, "/../index.html", lambda client: client.get("/..%2Findex.html")),
    (405, "GET /detect", lambda client: client.get("/detect")),
    (421, "'evil.example:80'", lambda client: client.get("/model", Host="evil.example:80")),
    (421, "''", lambda client: client.get("/model", Host="")),
    (403, "http://evil.example", lambda client: client.detect(PICTURE, headers={"Origin": "http://evil.example"})),
    (403, "null", lambda client: client.detect(PICTURE, headers={"Origin": "null"})),
]


@pytest.mark.parametrize(("status", "said", "send"), REFUSED, ids=[f"{status} {said}" for status, said, _ in REFUSED])
def test_a_refusal_is_a_status_and_a_sentence(
    client: Client, status: int, said: str, send: Callable[[Client], Answer]
) -> None:
    answer = send(client)
    assert (answer.status, said in answer.sentence) == (status, True), answer


def test_another_method_is_told_which_ones_there_are(client: Client) -> None:
    assert client.get("/detect").headers["allow"] == "POST"


def test_refusals_are_counted_by_kind(client: Client) -> None:
    before = count(client, 'gfl_failures_total{kind="picture"}')
    client.detect(b"no picture")
    assert count(client, 'gfl_failures_total{kind="picture"}') == before + 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7", "Detector.example"])
def test_a_server_goes_by_numbers_and_its_names(model: Path, host: str) -> None:
    with serving(open_model(model), hosts=["detector.example"]) as client:
        assert client.get("/model", Host=host, Origin=f"http://{host}").status == 200


def test_a_token_is_asked_for_by_all_but_health_and_pages(model: Path) -> None:
    with serving(open_model(model), token="let me in") as client:
        for path in ("/model", "/metrics", "/v2/models/tiny", "/detect"):
            assert client.get(path).status == 401
            assert client.get(path, Authorization="Bearer let me").status == 401
        assert client.get("/model", Authorization="Bearer let me in").status == 200
        assert client.detect(PICTURE, headers={**JPEG, "Authorization": "bearer let me in"}).status == 200
        for path in ("/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
            assert client.get(path).status == 200


@pytest.mark.parametrize("path", ["/model", "/docs", "/nothing", "/metrics"])
def test_every_answer_has_the_headers_of_security(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


# ---- bounds ----


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    with held() as (mirror, free), serving(mirror.model, LIMITS._replace(queue=2)) as client:
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(client.detect, PICTURE) for _ in range(2)]
            wait_for(lambda: inside(client) == 2)
            refused = client.detect(PICTURE)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert "2 of 2 pictures" in refused.sentence
            free.set()
            assert [answer.result().status for answer in answers] == [200, 200]
        assert inside(client) == 0
        assert client.detect(PICTURE).status == 200


def test_no_answer_in_time_is_504_and_frees_its_place() -> None:
    with held() as (mirror, free), serving(mirror.model, LIMITS._replace(timeout_s=0.1)) as client:
        late = client.detect(PICTURE)
        assert (late.status, "0.1 s" in late.sentence, inside(client)) == (504, True, 0)
        free.set()


def test_a_body_that_does_not_arrive_is_408() -> None:
    with serving(Mirror(canvases=(WIDE,)).model, LIMITS._replace(timeout_s=0.1)) as client:
        connection = client.open("/detect", len(PICTURE), sent=PICTURE[:50])
        with connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert inside(client) == 0


def test_a_client_that_leaves_is_dropped_before_its_picture_is_computed() -> None:
    with held() as (mirror, free), serving(mirror.model) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.detect, PICTURE)
        wait_for(lambda: inside(client) == 1)
        leaving = client.open("/detect", len(PICTURE), sent=PICTURE)
        wait_for(lambda: inside(client) == 2)
        leaving.close()
        wait_for(lambda: inside(client) == 1)
        free.set()
        assert first.result().status == 200
        assert client.detect(PICTURE).status == 200
        assert count(client, 'gfl_failures_total{kind="left"}') == 1
    assert len(mirror.seen) == 2


def test_a_client_that_leaves_while_it_sends_frees_its_place(client: Client) -> None:
    before = count(client, 'gfl_failures_total{kind="left"}')
    client.open("/detect", 10_000, sent=PICTURE[:50]).close()
    wait_for(lambda: count(client, 'gfl_failures_total{kind="left"}') == before + 1)
    assert inside(client) == 0


def test_a_failing_model_is_500_and_the_server_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    failures = iter([RuntimeError("a secret of the model")])

    def fail_once() -> None:
        for failure in failures:
            raise failure

    with serving(Mirror(batch=1, canvases=(WIDE,), before_run=fail_once).model) as client:
        failed = client.detect(PICTURE)
        assert (failed.status, "secret" in failed.sentence) == (500, False)
        assert client.detect(PICTURE).status == 200
    assert "a secret of the model" in capfd.readouterr().err


def test_an_ending_server_refuses_what_is_new_and_finishes_what_is_in_flight() -> None:
    with held() as (mirror, free), serving(mirror.model) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.detect, PICTURE)
        wait_for(lambda: inside(client) == 1)
        assert client.service is not None
        client.service.draining = True
        assert client.detect(PICTURE).status == 503
        assert client.get("/v2/health/ready").status == 503
        assert client.get("/v2/health/live").status == 200
        free.set()
        assert first.result().status == 200


# ---- connections ----


class ForeignTransport:
    """A transport that has no base class of asyncio's, as uvloop's has none."""

    def __init__(self, inner: asyncio.BaseTransport) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_the_transports_of_another_loop_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = connections.Connection.connection_made
    monkeypatch.setattr(
        connections.Connection, "connection_made", lambda self, transport: made(self, ForeignTransport(transport))
    )
    with serving(Mirror(canvases=(WIDE,)).model) as client:
        assert client.detect(PICTURE).status == 200


def test_connections_that_are_too_many_are_told_when_to_come_again() -> None:
    model = Mirror(canvases=(WIDE,)).model
    with serving(model, LIMITS._replace(connections=3)) as client, ExitStack() as idle:
        for _ in range(3):
            idle.enter_context(client.connect())
        wait_for(lambda: client.get("/model").status == 503)
        refused = client.detect(PICTURE)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "3 connections already" in refused.sentence
        assert "content-security-policy" in refused.headers
        idle.close()
        wait_for(lambda: client.get("/model").status == 200)
        assert count(client, 'gfl_failures_total{kind="connections"}') >= 2


def test_connections_that_are_far_too_many_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.2)
    model = Mirror(canvases=(WIDE,)).model
    with serving(model, LIMITS._replace(connections=1)) as client, ExitStack() as idle:
        several = [idle.enter_context(client.connect()) for _ in range(1 + connections.REFUSED + 5)]
        assert read_all(several[-1]) == b""
        assert read_all(several[1]).startswith(b"HTTP/1.1 503")
        time.sleep(0.5)  # those that were told are closed, though their other ends are open
        assert client.get("/model").status == 503


@pytest.mark.parametrize("sent", [b"", b"GET /model HTTP/1.1\r\nHost: local", HEAD + b"GET /mod"])
def test_a_head_that_does_not_arrive_ends_its_connection(
    client: Client, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.1)
    with client.connect() as connection:
        connection.settimeout(3)  # less than uvicorn itself keeps idle ones
        connection.sendall(sent)
        read_all(connection)


def test_a_client_that_reads_slowly_is_waited_for_and_one_that_does_not_read_is_dropped(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.3)
    with client.connect() as connection:
        connection.sendall(3000 * HEAD)
        wait_for(lambda: client.get("/model").status == 200)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert connection.recv(2**18)
            time.sleep(0.02)
        time.sleep(1)
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(2**20), b""))


# ---- what it says of itself ----


def test_the_model_is_described(client: Client) -> None:
    about = client.get("/model").json
    wanted = {
        "name": "tiny",
        "names": ["circle", "square", "ring"],
        "category_ids": [1, 2, 8],
        "score_thresholds": [0.3, 0.3, 0.3],
        "canvases": [[64, 96]],
        "precision": "fp32",
        "batch": 2,
    }
    assert isinstance(about, Mapping)
    assert {name: about[name] for name in wanted} == wanted


def test_the_api_is_described_in_full(client: Client) -> None:
    about = client.get("/openapi.json").json
    page = client.get("/docs").body.decode()
    assert isinstance(about, Mapping)
    for path, methods in about["paths"].items():
        for method in methods:
            answer = client.send(method.upper(), path.replace("{name}", "tiny"), b"" if method == "post" else None)
            assert answer.status in (200, 415, 422), (method, path)
            assert f"{method.upper()} {path}" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_the_page_is_served_by_its_files_and_without_it_the_root_leads_to_the_docs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<p>a page")
    (tmp_path / "page.js").write_text("1")
    monkeypatch.setattr(app, "PAGE", tmp_path)
    with serving(open_model(model), token="let me in") as client:
        for path, body, kind in (
            ("/", b"<p>a page", "text/html; charset=utf-8"),
            ("/index.html", b"<p>a page", "text/html; charset=utf-8"),
            ("/page.js", b"1", "text/javascript; charset=utf-8"),
        ):
            answer = client.get(path)
            assert (answer.status, answer.body, answer.headers["content-type"]) == (200, body, kind)
    monkeypatch.setattr(app, "PAGE", tmp_path / "none")
    with serving(open_model(model)) as client:
        assert client.get("/").headers["location"] == "/docs"


def test_a_checkpoints_canvases_are_each_pictures_own() -> None:
    with serving(Mirror(canvases=None).model) as client:
        assert client.get("/model").json["canvases"] == []
        rows = client.detect_form([("a.png", noise(32, 64)), ("b.png", noise(64, 32))]).json
        assert [row["detections"][0]["bbox"][2:] for row in rows] == [[64, 32], [32, 64]]


def test_nothing_of_a_picture_is_logged(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    client.detect_form([("private.png", PICTURE), ("secret.png", b"no picture")])
    client.detect(b"private", "?name=private")
    assert capfd.readouterr() == ("", "")
