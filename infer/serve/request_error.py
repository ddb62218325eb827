"""What a request is answered with where it cannot be served: a status and one sentence, as JSON."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from gfl.words import printable

LEFT = 499  # of a client that is no longer there, for the metrics alone: nobody reads it
RETRY_AFTER_S = 1


class RequestError(Exception):
    """A request that is not served; `kind` names it in the metrics."""

    def __init__(self, status: int, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.sentence = printable(sentence)

    def response(self) -> Response:
        """{"error": the sentence, "kind": ...}."""
        headers = {}
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413, 503):  # what is left of the body is not waited for
            headers["Connection"] = "close"
        return JSONResponse({"error": self.sentence, "kind": self.kind}, self.status, headers)
