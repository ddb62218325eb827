"""What the command line asks for, done: a model opened and tried, a socket bound, uvicorn on it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import math
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from gfl.errors import InputError
from gfl.runtime.model import Model
from gfl.runtime.open import CHECKPOINTS, kind_of, open_model
from gfl.runtime.providers import ProviderChoice
from gfl.say import say
from gfl.words import counted
from infer.serve.app import make_app
from infer.serve.connections import Connection
from infer.serve.drain import pass_over_signals
from infer.serve.flags import parser
from infer.serve.limits import Limits, read_limits
from infer.serve.metrics import FOLDER_VARIABLE
from infer.serve.service import Service

ARGUMENTS_VARIABLE = "GFL_SERVE_ARGUMENTS"  # of the environment: the command line, for the processes of several workers
CHECKPOINT_BATCH = 8
BACKLOG = 2048  # connections that wait to be accepted, as uvicorn has it
SOME_PICTURE = (480, 640)  # whose canvas is tried where each picture has its own


def run(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    """Serve until a signal comes. words: the command line, for further processes. Raises InputError."""
    limits = read_limits(arguments)
    check_openness(arguments)
    service = open_service(arguments, limits)
    with listening(arguments.host, arguments.port) as bound:
        announce(service.model, service.name, bound)
        if arguments.workers == 1:
            server = uvicorn.Server(config_of(make_app(service, names_of(arguments), arguments.token), limits))
            pass_over_signals()
            server.run(sockets=[bound])
            return
        service.close()
        del service  # each worker opens the model itself
        with tempfile.TemporaryDirectory() as folder:  # of numbers: the workers' counts
            os.environ[FOLDER_VARIABLE] = folder
            os.environ[ARGUMENTS_VARIABLE] = json.dumps(list(words))
            config = config_of("infer.serve.command:worker_app", limits, arguments.workers)
            Multiprocess(config, sockets=[bound]).run()


def worker_app() -> Starlette:
    """The application of one of several workers, which uvicorn starts as a process of its own."""
    arguments = parser().parse_args(json.loads(os.environ[ARGUMENTS_VARIABLE]))
    return make_app(open_service(arguments, read_limits(arguments)), names_of(arguments), arguments.token)


def config_of(app: Starlette | str, limits: Limits, workers: int = 1) -> uvicorn.Config:
    """uvicorn's settings: it logs failures alone, and no request, not even one that is no HTTP."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=Connection,
        workers=workers,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(limits.timeout_s),
        lifespan="on",
        ws="none",
    )


def open_service(arguments: argparse.Namespace, limits: Limits) -> Service:
    """The model, opened and run once on each canvas, so that what does not run is told now. Raises InputError."""
    batch = arguments.max_batch
    if batch is None and kind_of(arguments.model) in CHECKPOINTS:
        batch = CHECKPOINT_BATCH
    model = open_model(
        arguments.model, batch=batch, threads=arguments.threads, choice=ProviderChoice(arguments.provider)
    )
    for canvas in model.canvases or [model.canvas_for(*SOME_PICTURE)[0]]:
        model.run(np.zeros((model.batch, 3, *canvas), np.uint8), np.array([canvas] * model.batch, np.int32))
    return Service(model, arguments.model.resolve().stem, limits)


def check_openness(arguments: argparse.Namespace) -> None:
    """Raise InputError where strangers could come without a token and --open does not say that they may."""
    token = arguments.token
    if token is not None and not (token and token.isascii() and token.isprintable() and token == token.strip()):
        raise InputError(
            "got a --token that no header of HTTP can hold, expected printable ASCII without spaces around it; omit "
            "it, or give one that nobody guesses"
        )
    if not (is_loopback(arguments.host) or token or arguments.open):
        raise InputError(
            f"got --host {arguments.host}, which other machines can reach, without --token; give a token, or --open to "
            "let anyone in"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(arguments: argparse.Namespace) -> list[str]:
    """What the server goes by, beside addresses in numbers."""
    return [arguments.host, *arguments.allow_host]


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; InputError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port} ({error.strerror}); give another --port or --host"
        ) from error
    with bound:
        yield bound


def announce(model: Model, name: str, bound: socket.socket) -> None:
    """Say what is served, and where."""
    host, port = bound.getsockname()[:2]
    report = model.provider_report()
    say(f"model    {name} | {counted(len(model.description.names), 'class', 'classes')} | {report.provider}")
    for note in report.notes:
        say(f"note: {note}")
    say(f"serving  http://{f'[{host}]' if ':' in host else host}:{port}/ | API at /docs | Ctrl-C ends it")
