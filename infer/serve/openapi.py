"""What the server says of itself: OpenAPI as JSON, and the same as a page without a script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

from gfl.version import VERSION
from infer.serve.limits import MB
from infer.serve.service import Service

Json = Mapping[str, object]

ROW: Json = {
    "type": "object",
    "description": "A picture, as a line of infer's results.jsonl",
    "properties": {
        "id": {"type": "integer", "description": "from 1, in the order of the request"},
        "file": {"type": "string"},
        "width": {"type": ["integer", "null"], "description": "px of the picture; null where it could not be read"},
        "height": {"type": ["integer", "null"]},
        "count": {"type": "integer"},
        "complete": {"type": ["boolean", "null"]},
        "failure": {"type": ["string", "null"], "description": "why it could not be read"},
        "detections": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "category_id": {"type": "integer"},
                    "bbox": {"type": "array", "description": "x, y, width, height in px of the picture"},
                    "score": {"type": "number"},
                    "edge_std": {
                        "type": "array",
                        "description": "with edges=1: the spread of the left, top, right and bottom edge, px",
                    },
                },
            },
        },
    },
}
BINARY: Json = {"schema": {"type": "string", "format": "binary"}}
BODIES: Json = {
    "image/*": BINARY,
    "application/octet-stream": BINARY,
    "multipart/form-data": {"schema": {"type": "object", "description": "one file or several, under any names"}},
}
ANSWERS: Json = {"application/json": {"schema": {"type": "array", "items": ROW}}, "image/jpeg": {}, "image/png": {}}
QUERY = {
    "min_score": ({"type": "number", "minimum": 0, "maximum": 1}, "leave out detections of a lower score"),
    "top": ({"type": "integer", "minimum": 1}, "at most so many detections a picture"),
    "format": ({"enum": ["json", "drawn"]}, "drawn: the first picture with its detections, JPEG, or PNG by Accept"),
    "edges": ({"enum": ["0", "1"]}, "1: also the spread of each edge"),
}
PROBLEMS = {
    "401": "the token is missing or another",
    "403": "a page of another site asks",
    "408": "the body did not arrive in time",
    "413": "the body is too large, or holds too many pictures",
    "415": "another content type, or a compressed body",
    "421": "another host",
    "422": "no picture, or a request that cannot be understood",
    "500": "the model failed",
    "503": "the queue or the server is full, or it is ending; Retry-After says when to come again",
    "504": "the answer took too long",
}


class Address(NamedTuple):
    """What answers, and with what."""

    path: str
    summary: str
    method: str = "get"


ADDRESSES = (
    Address("/detect", "the objects in one picture or in several, in px of each", "post"),
    Address("/model", "classes, category ids, best-F1 scores, canvases, precision, digest, limits"),
    Address("/metrics", "counts in Prometheus' format"),
    Address("/openapi.json", "this description"),
    Address("/v2", "the Open Inference Protocol: the server"),
    Address("/v2/health/live", "the server runs"),
    Address("/v2/health/ready", "the model is loaded, and the server is not ending"),
    Address("/v2/models/{name}", "the protocol's description of the model"),
    Address("/v2/models/{name}/ready", "as /v2/health/ready"),
    Address("/v2/models/{name}/infer", "pictures as elements of the BYTES tensor `image`: base64, or binary", "post"),
)


def description(service: Service) -> Json:
    """OpenAPI 3.1 of a service."""
    paths = {each.path: {each.method: operation(each)} for each in ADDRESSES}
    paths["/detect"]["post"] |= {
        "description": limits_text(service),
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema, "description": what}
            for name, (schema, what) in QUERY.items()
        ],
        "requestBody": {"required": True, "content": BODIES},
    }
    return {"openapi": "3.1.0", "info": {"title": f"gfl: {service.name}", "version": VERSION}, "paths": paths}


def operation(address: Address) -> dict[str, object]:
    """What OpenAPI has of an address."""
    name: Json = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    done = {"description": "done", "content": ANSWERS} if address.path == "/detect" else {"description": "done"}
    refused = {
        status: {"description": f"{what}: one sentence", "content": {"application/json": {}}}
        for status, what in PROBLEMS.items()
    }
    return {
        "summary": address.summary,
        "parameters": [name] if "{name}" in address.path else [],
        "responses": {"200": done, **refused},
    }


def limits_text(service: Service) -> str:
    """What a request may hold."""
    limits = service.limits
    return (
        f"At most {limits.body_bytes // MB} MB a request, {limits.pixels:,} pixels a picture, {limits.queue} pictures "
        f"inside at a time, {limits.timeout_s:g} s."
    )


def documentation(service: Service) -> str:
    """The same as a page."""
    addresses = ((f"{each.method.upper()} {each.path}", each.summary) for each in ADDRESSES)
    query = ((f"?{name}=", what) for name, (_, what) in QUERY.items())
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(service.name)}: API</title>\n<link rel="icon" href="data:,">\n'
        '<link rel="stylesheet" href="/docs.css">\n'
        f"<main>\n<h1>{escape(service.name)}</h1>\n"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>\n'
        f"<h2>Addresses</h2>\n{definitions(addresses)}\n"
        f"<h2>Pictures for /detect</h2>\n<p>As the body ({escape(', '.join(BODIES))}), which may be a form of several "
        f"files. {escape(limits_text(service))} The answer is a JSON list with a row a picture.</p>\n"
        f"{definitions(query)}\n<h2>Errors</h2>\n<p>Each with one sentence: {{&quot;error&quot;: ...}}.</p>\n"
        f"{definitions(PROBLEMS.items())}\n</main>\n</html>\n"
    )


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """A list of words and what they mean."""
    items = "".join(f"<dt><code>{escape(word)}</code></dt><dd>{escape(what)}</dd>\n" for word, what in entries)
    return f"<dl>\n{items}</dl>"
