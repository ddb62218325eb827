"""What a connection is before and after its requests: one of a bounded number, and dropped where nothing moves on it.

uvicorn alone holds any number of connections, and waits for ever for a head that does not come and for a client that
does not read its answer. Its own `limit_concurrency` answers requests with 503, and still holds idle connections.
"""

from __future__ import annotations

import asyncio

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from infer.serve.guard import HEADERS
from infer.serve.request_error import RequestError
from infer.serve.service import Service

LOOK_EVERY_S = 15.0  # a connection on which nothing moves between two looks is dropped
REFUSED = 64  # connections that are being told so at a time; those beyond are closed at once
LINGER_S = 1.0  # how long one that is refused may take to read why


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
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._seen: object = None  # what the last look saw, where the connection waited for its client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"got {transport}, expected the transport of a stream")
        self._transport = transport
        self._inner.connection_made(transport)
        most, there = self._service.limits.connections, len(self._inner.connections)
        self._refused = there > most
        if not self._refused:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
            return
        self._service.metrics.failures.labels("connections").inc()
        if there > most + REFUSED:
            transport.abort()
            return
        transport.write(refusal(most))
        transport.write_eof()  # and what it sends is still taken, for a reset would reach it before the answer
        self._timer = self._loop.call_later(LINGER_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
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
