"""What a connection is before and after its requests: one of a bounded number, and dropped where nothing moves on it.

uvicorn alone holds any number of connections, and waits for ever for a head that does not come and for a client that
does not read its answer. Its own `limit_concurrency` answers requests with 503, and still holds idle connections.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from infer.serve.guard import HEADERS
from infer.serve.request_error import RequestError
from infer.serve.service import Service

LOOK_EVERY_S = 15.0  # a connection on which nothing moves between two looks is dropped
REFUSED = 64  # connections that are being told so at a time; those beyond are closed at once
LINGER_S = 1.0  # how long the other end may take to read the last answer


class PatientTransport(asyncio.Transport):
    """A transport that closes once the other end has had time to read what was written.

    Where something that was sent is not read, as the body of a request that is refused, a connection that is closed at
    once is reset, and a client that is still sending does not get its answer.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._inner = inner
        self._loop = loop
        self._closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._inner.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closing or self._inner.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._inner.write(data)

    def pause_reading(self) -> None:
        if not self._closing:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()

    def close(self) -> None:
        if not self.is_closing():
            self._closing = True
            self._inner.write_eof()
            self._inner.resume_reading()
            self._loop.call_later(LINGER_S, self._end)

    def _end(self) -> None:
        if self._inner.get_write_buffer_size() > 0:  # `Connection` ends it where nobody reads
            self._loop.call_later(LINGER_S, self._end)
        else:
            self._inner.abort()


class Connection(asyncio.Protocol):
    """uvicorn's protocol of a connection, with its bounds."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Service],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """The arguments are uvicorn's; app_state: what the lifespan has given."""
        self._loop = _loop or asyncio.get_running_loop()
        self._inner = H11Protocol(config, server_state, app_state, self._loop)
        self._service = app_state["service"]
        self._seen: object = None  # what the last look saw, where the connection waited for its client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A stream's; uvloop's, which uvicorn takes where it is installed, has no base class in common with asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._patient = PatientTransport(self._transport, self._loop)
        self._inner.connection_made(self._patient)
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        most, there = self._service.limits.connections, len(self._inner.connections)
        if there > most:
            self._service.metrics.failures.labels("connections").inc()
            if there > most + REFUSED:
                self._transport.abort()
            else:
                self._patient.write(refusal(most))
                self._patient.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._patient.is_closing():
            self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _look(self) -> None:
        """Drop the connection where since the last look no head came, or nothing of an answer was read."""
        cycle, unread = self._inner.cycle, self._transport.get_write_buffer_size()
        waits = cycle is None or cycle.response_complete or unread > 0
        if waits and self._seen == (cycle, unread):
            self._transport.abort()
            return
        self._seen = (cycle, unread) if waits else None
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)


def refusal(most: int) -> bytes:
    """What a connection is told for which there is no room."""
    answer = RequestError(503, "connections", f"the server has {most} connections already; try again later").response()
    answer.headers.update(HEADERS)
    head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
    return b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + bytes(answer.body)
