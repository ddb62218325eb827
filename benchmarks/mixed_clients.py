"""Clients of all kinds: a file for locust, which `benchmarks.mixed` starts.

Of a hundred requests 80 are pictures, whose answers must be infer's rows, 5 are no pictures, 5 are too large, 5 come
slowly, and of 5 the client leaves before its answer; beside them some clients never finish what they send. What each
kind was answered is written into the folder that the environment names, which has the requests and the rows.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections import Counter, defaultdict
from itertools import cycle
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from locust import HttpUser, User, constant, events

FOLDER = Path(os.environ["GFL_MIXED_FOLDER"])
FORM = {"Content-Type": "multipart/form-data; boundary=limit"}
HEAD = "POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
OVERSIZE = bytes(1_100_000)  # of a server with --max_body_mb 1
PIECES, PAUSE_S = 10, 0.2  # of a picture that comes slowly
UNANSWERED = "unanswered"

requests = [(file.read_bytes(), file.with_suffix(".json").read_bytes()) for file in sorted(FOLDER.glob("*.body"))]
turns = cycle(requests)
outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # kind of request -> status, or what was wrong
unanswered: list[float] = []  # when, time.time()
left: list[float] = []


def write_outcomes(**given: object) -> None:
    content = {"outcomes": outcomes, "unanswered": unanswered, "left": left}
    (FOLDER / "clients.json").write_text(json.dumps(content), encoding="utf-8")


def note(kind: str, outcome: str) -> bool:
    """Count an outcome; whether the server is still there."""
    outcomes[kind][outcome] += 1
    if outcome == UNANSWERED:
        unanswered.append(time.time())
    return outcome != UNANSWERED


class Client(HttpUser):
    """One that keeps its connection; without the server it stops."""

    wait_time = constant(0)

    def detect(self) -> None:
        self.send("picture", *next(turns))

    def send_no_picture(self) -> None:
        self.send("no picture", b"--limit\r\nContent-Disposition: form-data; filename=x\r\n\r\nnone\r\n--limit--\r\n")

    def send_too_much(self) -> None:
        self.send("too large", OVERSIZE)

    def leave(self) -> None:
        self.client.close()  # the server ends connections that idle, at any moment
        body, _ = next(turns)
        try:
            with connect(self) as connection:
                connection.sendall(HEAD.format(FORM["Content-Type"], len(body)).encode() + body)
                time.sleep(random.uniform(0, 0.05))
        except OSError:
            self.stop()
        left.append(time.time())

    def send_slowly(self) -> None:
        self.client.close()
        body, row = next(turns)
        step = -(-len(body) // PIECES)
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        if not note("slow picture", trickle(self, FORM["Content-Type"], len(body), pieces, row)):
            self.stop()

    def send(self, kind: str, body: bytes, row: bytes = b"") -> None:
        with self.client.post("/detect", body, headers=FORM, catch_response=True, name=kind) as response:
            outcome = str(response.status_code or UNANSWERED)
            if outcome == "200" and response.content != row:
                outcome = "another row"
            response.success()
        if not note(kind, outcome):
            self.stop()

    tasks: ClassVar = {detect: 80, send_no_picture: 5, send_too_much: 5, send_slowly: 5, leave: 5}


class Endless(User):
    """One whose picture never ends."""

    fixed_count = 4
    wait_time = constant(0)

    def send(self) -> None:
        if not note("endless", trickle(self, "image/jpeg", 10_000, [b"x"] * 10_000)):
            self.stop()

    tasks: ClassVar = [send]


def connect(user: User) -> socket.socket:
    address = urlsplit(user.host)
    return socket.create_connection((address.hostname, address.port), timeout=60)


def trickle(user: User, kind: str, length: int, pieces: list[bytes], row: bytes = b"") -> str:
    """Send a body piece by piece until an answer comes; its status, or what is wrong."""
    answer = b""
    try:
        with connect(user) as connection:
            connection.sendall(HEAD.format(kind, length).encode())
            connection.settimeout(PAUSE_S)
            for piece in pieces:
                connection.sendall(piece)
                try:
                    answer = connection.recv(65536)
                    break
                except TimeoutError:
                    continue
            connection.settimeout(60)
            while part := connection.recv(65536):
                answer += part
    except OSError:
        if not answer:
            return UNANSWERED
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    return "another row" if status == "200" and body != row else status or UNANSWERED


events.quitting.add_listener(write_outcomes)
