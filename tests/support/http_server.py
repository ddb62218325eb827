"""A server of a model on loopback, in threads of this process, and requests to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
import uvicorn

from gfl.runtime.model import Model
from infer.serve.app import make_app
from infer.serve.command import config_of, listening
from infer.serve.limits import Limits
from infer.serve.service import Service

LIMITS = Limits(wait_s=0.005, connections=64, queue=32, body_bytes=2**20, pixels=1_000_000, timeout_s=20.0)
JPEG = {"Content-Type": "image/jpeg"}


class Answer(NamedTuple):
    """What came of a request."""

    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def sentence(self) -> str:
        """Of a refusal, which must be JSON with one sentence."""
        content = json.loads(self.body)
        assert set(content) == {"error", "kind"}
        assert len(content["error"].splitlines()) == 1
        return str(content["error"])


class Client(NamedTuple):
    """Sends requests to a server, each on a connection of its own."""

    port: int
    service: Service | None = None  # where it is in this process

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def detect(self, picture: bytes, query: str = "", headers: Mapping[str, str] = JPEG) -> Answer:
        return self.send("POST", f"/detect{query}", picture, headers)

    def detect_form(self, files: Sequence[tuple[str, bytes]], query: str = "") -> Answer:
        return self.send("POST", f"/detect{query}", *form(files))

    def connect(self) -> socket.socket:
        """A connection on which nothing was sent."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def open(self, path: str, length: int, *, sent: bytes = b"") -> socket.socket:
        """A connection on which a picture of a length was begun."""
        connection = self.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode() + sent)
        return connection


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of multipart/form-data, a file a part."""
    head = '--limit\r\nContent-Disposition: form-data; name="picture"; filename="{}"\r\n\r\n'
    parts = [head.format(name).encode() + data + b"\r\n" for name, data in files]
    return b"".join(parts) + b"--limit--\r\n", {"Content-Type": "multipart/form-data; boundary=limit"}


@contextmanager
def serving(
    model: Model, limits: Limits = LIMITS, hosts: Sequence[str] = (), token: str | None = None
) -> Iterator[Client]:
    """A server of the model by the name `tiny`; afterwards it has ended."""
    service = Service(model, "tiny", limits)
    server = uvicorn.Server(config_of(make_app(service, hosts, token), limits))
    with listening("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield Client(bound.getsockname()[1], service)
        finally:
            server.should_exit = True
            thread.join()


def noise(height: int, width: int, seed: int = 0) -> bytes:
    """A picture file, PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.005)
