"""POST /detect: pictures in, the rows of infer's results out; GET /model: what the rows are of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gfl.errors import InputError
from gfl.files import to_json
from gfl.runtime.result import Result, check_share
from gfl.version import VERSION
from infer.drawn_pictures import jpeg_of
from infer.pipeline import Failed
from infer.rows import Row, Selection, row_of, selected
from infer.serve.request_error import RequestError
from infer.serve.service import Service
from infer.serve.uploads import read_uploads

KNOWN = ("min_score", "top", "format", "edges")
FLAGS = {"": True, "1": True, "true": True, "0": False, "false": False}
EDGE_DIGITS = 3  # as val_detections.json has the spread of edges


class Wanted(NamedTuple):
    """What the address of a request asks for."""

    min_score: float | None = None  # None: all that the model gives; in a drawn picture, each class's best-F1 score
    top: int | None = None  # detections a picture; None: all
    drawn: bool = False  # the first picture with its detections, in place of rows
    edges: bool = False  # the spread of each edge, too

    def selection(self, category_ids: Sequence[int]) -> Selection:
        """Which detections that leaves."""
        return Selection(category_ids, self.min_score or 0.0, self.top)


def read_wanted(query: QueryParams) -> Wanted:
    """?min_score=0.3&top=10&format=drawn&edges=1; raises RequestError for what is none of these."""
    unknown = sorted(set(query) - set(KNOWN))
    if unknown:
        raise bad(f"got {unknown[0]!r}", " or ".join(KNOWN))
    try:
        min_score = check_share("min_score", float(query["min_score"])) if "min_score" in query else None
        top = int(query["top"]) if "top" in query else None
    except (ValueError, InputError):
        raise bad(f"got {query}", "a min_score from 0 to 1 and a whole number for top") from None
    if top is not None and top < 1:
        raise bad(f"got top={top}", "at least 1")
    form, edges = query.get("format", "json"), query.get("edges", "0")
    if form not in ("json", "drawn"):
        raise bad(f"got format={form!r}", "json or drawn")
    if edges not in FLAGS:
        raise bad(f"got edges={edges!r}", "0 or 1")
    return Wanted(min_score, top, form == "drawn", FLAGS[edges])


def bad(got: str, expected: str) -> RequestError:
    """Of an address."""
    return RequestError(422, "request", f"{got[:200]} in the address, expected {expected}; correct it")


async def detect(request: Request) -> Response:
    """Answer POST /detect."""
    service: Service = request.state.service
    started = time.perf_counter()
    deadline = asyncio.get_running_loop().time() + service.limits.timeout_s
    wanted = read_wanted(request.query_params)
    with service.room_for(1):
        uploads = await service.receive(read_uploads(request, service.limits), deadline)
        with service.room_for(len(uploads), counted=1):
            if wanted.drawn:
                uploads = uploads[:1]
            outcomes = await service.answer(request, service.detect(uploads, keep=wanted.drawn), deadline)
            failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
            if len(failed) == len(outcomes):
                raise RequestError(422, "picture", "; ".join(each.reason for each in failed))
            if wanted.drawn:
                as_png = "image/png" in request.headers.get("accept", "")
                response = await service.in_pool(lambda: drawn(service, outcomes[0], wanted, as_png))
            else:
                response = rows_response(service, outcomes, wanted)
    response.headers["Server-Timing"] = f"total;dur={1000 * (time.perf_counter() - started):.1f}"
    return response


def rows_response(service: Service, outcomes: Sequence[Result | Failed], wanted: Wanted) -> Response:
    """The rows of all pictures; one that cannot be read has its reason in the row, as in infer's results."""
    category_ids = service.model.description.category_ids
    selection = wanted.selection(category_ids)
    rows: list[Mapping[str, object]] = []
    for image_id, outcome in enumerate(outcomes, start=1):
        chosen = outcome if isinstance(outcome, Failed) else selected(outcome, selection)
        row = row_of(chosen, image_id, category_ids)
        rows.append(with_edges(row, chosen) if wanted.edges and isinstance(chosen, Result) else row)
    return Response(to_json(rows).encode("utf-8", "backslashreplace"), media_type="application/json")


def with_edges(row: Row, result: Result) -> dict[str, object]:
    """The row with the spread of each edge, px."""
    spreads = result.edge_std.astype(float).round(EDGE_DIGITS).tolist()
    detections = [{**each, "edge_std": spread} for each, spread in zip(row["detections"], spreads, strict=True)]
    return {**row, "detections": detections}


def drawn(service: Service, outcome: Result | Failed, wanted: Wanted, as_png: bool) -> Response:
    """The picture with its detections, a JPEG or a PNG."""
    if isinstance(outcome, Failed):
        raise RequestError(422, "picture", outcome.reason)
    shown = selected(outcome, Selection(service.model.description.category_ids, top=wanted.top))
    image = shown.draw(wanted.min_score, edges=wanted.edges)
    if as_png:
        return Response(bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]), media_type="image/png")
    return Response(jpeg_of(image), media_type="image/jpeg")


async def model(request: Request) -> Response:
    """Answer GET /model."""
    service: Service = request.state.service
    about, limits = service.model.description, service.limits
    return JSONResponse(
        {
            "name": service.name,
            "version": VERSION,
            "digest": about.digest,
            "precision": about.precision,
            "names": about.names,
            "category_ids": about.category_ids,
            "score_thresholds": about.score_thresholds,
            "canvases": service.model.canvases or [],  # none: each picture has its own
            "batch": service.model.batch,
            "short_side": about.short_side,
            "long_side": about.long_side,
            "provider": service.model.provider_report().provider,
            "limits": {"body_bytes": limits.body_bytes, "pixels": limits.pixels, "pictures": limits.queue},
        }
    )
