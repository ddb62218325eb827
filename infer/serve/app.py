"""The application: which address is answered by what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from infer.pipeline import single_threaded_opencv
from infer.serve import detect, protocol
from infer.serve.drain import drained_at_signals
from infer.serve.guard import Guard
from infer.serve.openapi import description, documentation
from infer.serve.request_error import RequestError
from infer.serve.service import Service

# By name, since what a machine says of them may be wrong, and a browser runs no script of another type.
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGE = Path(__file__).resolve().parent.parent / "page"  # index.html and what it loads
STYLE = ":root{color-scheme:light dark;background:Canvas;color:CanvasText}"  # said in full, for checkers of contrast
STYLE += "body{max-width:60rem;margin:2rem auto;padding:0 1rem;font-family:system-ui}"


def make_app(service: Service, hosts: Collection[str] = (), token: str | None = None) -> Starlette:
    """The application of a service. hosts: names that it goes by, beside localhost; token: that requests must have."""
    closed = [
        Route("/detect", detect.detect, methods=["POST"]),
        Route("/model", detect.model),
        Route("/metrics", metrics),
        Route("/v2", protocol.server),
        *(
            route
            for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
            for route in (
                Route(model, protocol.metadata),
                Route(f"{model}/ready", protocol.ready),
                Route(f"{model}/infer", protocol.infer, methods=["POST"]),
            )
        ),
    ]
    # Beside a token lie open: health, for who watches the server, and pages, which hold nothing of the model.
    opened = [
        Route("/v2/health/live", protocol.live),
        Route("/v2/health/ready", protocol.ready),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Route("/docs.css", docs_style),
        *page_routes(),
    ]
    named = {"name": service.name, "version": protocol.MODEL_VERSION}
    paths = [route.path.format_map(named) for route in (*closed, *opened)]
    open_paths = [route.path for route in opened]
    guard = Middleware(
        Guard, service=service, hosts={"localhost", *hosts}, token=token, paths=paths, open_paths=open_paths
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Service]]:
        with single_threaded_opencv(), drained_at_signals(service):
            yield {"service": service}  # in the state of every request and connection
        service.close()

    handlers = {RequestError: answer_refusal, HTTPException: answer_http, Exception: answer_failure}
    app = Starlette(routes=[*closed, *opened], middleware=[guard], exception_handlers=handlers, lifespan=lifespan)
    return app


def page_routes() -> list[Route]:
    """The page's files, each by its name; where there are none, / leads to /docs."""
    files = [file for file in sorted(PAGE.glob("*")) if file.is_file()] if PAGE.is_dir() else []
    routes = [Route(f"/{file.name}", answer_file(file)) for file in files]
    home = PAGE / "index.html"
    return [Route("/", answer_file(home) if home in files else to_docs), *routes]


def answer_file(file: Path) -> Callable[[Request], Awaitable[Response]]:
    """What answers with a file."""

    async def answer(request: Request) -> Response:
        return FileResponse(file, media_type=TYPES.get(file.suffix))

    return answer


async def to_docs(request: Request) -> Response:
    return RedirectResponse("/docs")


async def metrics(request: Request) -> Response:
    service: Service = request.state.service
    return service.metrics.page()


async def openapi(request: Request) -> Response:
    return JSONResponse(description(request.state.service))


async def docs(request: Request) -> Response:
    return HTMLResponse(documentation(request.state.service))


async def docs_style(request: Request) -> Response:
    return Response(STYLE, media_type="text/css")


async def answer_refusal(request: Request, error: Exception) -> Response:
    """One sentence."""
    if not isinstance(error, RequestError):
        raise error
    service: Service = request.state.service
    service.metrics.failures.labels(error.kind).inc()
    return error.response()


async def answer_http(request: Request, error: Exception) -> Response:
    """Starlette's own: no such address, or another method."""
    if not isinstance(error, HTTPException):
        raise error
    got = f"{request.method} {request.url.path[:80]}"
    refusal = RequestError(
        error.status_code,
        "request",
        f"got {got} ({error.detail}), expected a method and an address of /docs; correct it",
    )
    response = await answer_refusal(request, refusal)
    response.headers.update(error.headers or {})  # Allow
    return response


async def answer_failure(request: Request, error: Exception) -> Response:
    """A fault of ours or of the runtime's, whose traceback goes to the log."""
    failure = RequestError(500, "model", "the server failed on this request; its log says more")
    return await answer_refusal(request, failure)
