"""The pictures of a request's body, in memory: nothing of them is written to a disk."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from gfl.errors import first_line
from infer.opened import Opened, open_content
from infer.serve.limits import MB, Limits
from infer.serve.request_error import LEFT, RequestError

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of each form that is none
DISCARDED = 4  # times the largest body: so much of a larger one is read, for a client hears only when it has sent
LONGEST_NUMBER = 18  # digits of a length that is believed
EXPECTED = "expected a picture: image/*, application/octet-stream or multipart/form-data"


class Upload(NamedTuple):
    """A picture that came with a request; a `Source` of infer's pipeline."""

    name: str
    data: bytes
    max_pixels: int

    def open(self) -> Opened:
        """As a picture file; InputError where it is none, or too large."""
        return open_content(self.data, self.name, most_pixels=self.max_pixels)


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """The pictures of a request; raises RequestError where it holds none, or more than the limits allow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        named = await read_form(request, limits)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        named = [("picture 1", await read_body(request, limits))]
    else:
        raise RequestError(415, "type", f"got the content type {kind[:80] or 'of none'}, {EXPECTED}; say which it is")
    if not all(data for _, data in named):
        raise RequestError(422, "request", "got an empty picture, expected the content of a picture file; send one")
    return [Upload(name, data, limits.pixels) for name, data in named]


async def read_form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Name and content of each file of a form."""
    parser = MultiPartParser(request.headers, body_of(request, limits), max_files=limits.queue + 1)
    parser.spool_max_size = limits.body_bytes + 1  # below it, a file stays in memory
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # Starlette's, and its parser's
        raise RequestError(
            422, "request", f"got a form that cannot be read ({first_line(error)}); send each picture as a file"
        ) from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    named = [(file.filename or f"picture {i}", await file.read()) for i, file in enumerate(files, start=1)]
    await form.close()
    if not named:
        raise RequestError(
            422, "request", "got a form without a file, expected one or several; give each picture a file name"
        )
    return named


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body."""
    return b"".join([part async for part in body_of(request, limits)])


async def body_of(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body as it comes; raises RequestError where it is too large or compressed, or the client leaves."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RequestError(
            415, "type", f"got a body in the encoding {encoding[:80]!r}, expected it as it is; send it without"
        )
    stated = request.headers.get("content-length", "")
    too_large = stated.isdecimal() and (len(stated) > LONGEST_NUMBER or int(stated) > limits.body_bytes)
    received = 0
    if not (too_large and "expect" in request.headers):  # such a client waits to be told that it may send
        try:
            async for part in request.stream():
                received += len(part)
                too_large = too_large or received > limits.body_bytes
                if not too_large:
                    yield part
                elif received > DISCARDED * limits.body_bytes:
                    break
        except ClientDisconnect:
            raise RequestError(LEFT, "left", "the client left while it sent its picture") from None
    if too_large:
        raise RequestError(
            413,
            "body",
            f"got a body of more than {limits.body_bytes // MB} MB, expected at most that; send a smaller picture, or "
            "fewer at once",
        )
