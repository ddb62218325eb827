"""What every request passes first: Host, Origin and token are checked, answers get headers, and all are counted.

A page of any web site that a person has open can send requests to a server on the same machine: by name, if its owner
lets the name lead there (DNS rebinding), and across sites. Addresses in numbers cannot be rebound.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infer.serve.request_error import RequestError
from infer.serve.service import Service

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        hosts: Collection[str],
        token: str | None,
        paths: Collection[str],
        open_paths: Collection[str],
    ) -> None:
        """Guard an application.

        hosts: names that the server goes by. token: None asks for none. paths: those that metrics name; open_paths:
        those that ask for no token.
        """
        self._app = app
        self._service = service
        self._hosts = {name.lower() for name in hosts}
        self._token = token
        self._paths = set(paths)
        self._open_paths = set(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        started, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        self._service.busy += 1
        try:
            self._check(Headers(scope=scope), scope["path"])
        except RequestError as refusal:
            self._service.metrics.failures.labels(refusal.kind).inc()
            await refusal.response()(scope, receive, send_on)
        else:
            await self._app(scope, receive, send_on)
        finally:
            self._service.busy -= 1
            self._service.metrics.requests.labels(path, str(status)).inc()
            self._service.metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _check(self, headers: Headers, path: str) -> None:
        """Raise RequestError for a request that is not let in."""
        host = headers.get("host", "")
        if not self._is_known(host):
            raise RequestError(
                421,
                "host",
                f"got a request for the host {host[:80]!r}, expected an address in numbers or a name of this server; "
                "start it with --allow_host NAME to let it go by that name",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise RequestError(403, "origin", f"got a request of the site {origin[:80]!r}, expected this server's own")
        if self._token is not None and path not in self._open_paths:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
                raise RequestError(401, "token", "got no valid token, expected the header Authorization: Bearer TOKEN")
        if self._service.draining and path != "/v2/health/live":
            raise RequestError(503, "ending", "the server is ending; try another one, or again later")

    def _is_known(self, host: str) -> bool:
        """Whether a Host header, with or without a port, is an address in numbers or a name of the server."""
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
