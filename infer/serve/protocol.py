"""The Open Inference Protocol, version 2, so that its ready-made clients work: a picture is an element of type BYTES.

Shapes: N pictures a request, D the most detections that the model gives of one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gfl.files import to_json
from gfl.runtime.result import Result
from gfl.version import VERSION
from infer.pipeline import Failed
from infer.rows import encode, row_of
from infer.serve.request_error import RequestError
from infer.serve.service import Service
from infer.serve.uploads import LONGEST_NUMBER, Upload, read_body

HEADER_LENGTH = "inference-header-content-length"  # of the binary extension: bytes of JSON before the tensors
INPUT = "image"
MODEL_VERSION = "1"


class Output(NamedTuple):
    """A tensor of the answer; its first axis is the pictures."""

    datatype: str
    dtype: type  # NumPy's
    shape: tuple[int, ...]  # a picture; D stands for its most detections
    blank: float = 0  # what an empty place holds


D = -1
OUTPUTS = {
    "boxes": Output("FP32", np.float32, (D, 4)),  # xyxy, px of the original
    "scores": Output("FP32", np.float32, (D,)),
    "category_ids": Output("INT64", np.int64, (D,), -1),
    "labels": Output("INT32", np.int32, (D,), -1),
    "edge_std": Output("FP32", np.float32, (D, 4)),  # px
    "count": Output("INT32", np.int32, ()),
    "rows": Output("BYTES", object, ()),  # as of POST /detect
}


async def live(request: Request) -> Response:
    """Answer GET /v2/health/live."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """Answer GET /v2/health/ready and /v2/models/NAME/ready; while the server ends, `Guard` has answered 503."""
    check_name(request)
    return JSONResponse({"ready": True})


async def server(request: Request) -> Response:
    """Answer GET /v2."""
    return JSONResponse({"name": "gfl", "version": VERSION, "extensions": ["binary_tensor_data"]})


async def metadata(request: Request) -> Response:
    """Answer GET /v2/models/NAME."""
    service = check_name(request)
    most = service.model.description.thresholds.max_detections
    outputs = [
        {"name": name, "datatype": each.datatype, "shape": [-1, *(most if n == D else n for n in each.shape)]}
        for name, each in OUTPUTS.items()
    ]
    inputs = [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}]
    return JSONResponse(
        {"name": service.name, "versions": [MODEL_VERSION], "platform": "gfl", "inputs": inputs, "outputs": outputs}
    )


async def infer(request: Request) -> Response:
    """Answer POST /v2/models/NAME/infer."""
    service = check_name(request)
    deadline = asyncio.get_running_loop().time() + service.limits.timeout_s
    with service.room_for(1):
        body = await service.receive(read_body(request, service.limits), deadline)
        asked, pictures = read_request(body, request.headers.get(HEADER_LENGTH))
        wanted = wanted_outputs(asked)
        uploads = [Upload(f"picture {i}", data, service.limits.pixels) for i, data in enumerate(pictures, start=1)]
        with service.room_for(len(uploads), counted=1):
            outcomes = await service.answer(request, service.detect(uploads), deadline)
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    if len(results) < len(outcomes):  # tensors have no place for a reason
        raise RequestError(422, "picture", next(each.reason for each in outcomes if isinstance(each, Failed)))
    arrays = output_arrays(service, results)
    content: dict[str, object] = {"model_name": service.name, "model_version": MODEL_VERSION}
    if isinstance(asked.get("id"), str):
        content["id"] = asked["id"]
    return tensors_response(content, {name: (arrays[name], binary) for name, binary in wanted.items()})


def tensors_response(content: dict[str, object], tensors: Mapping[str, tuple[NDArray[np.generic], bool]]) -> Response:
    """The content with the outputs: each in JSON or, where its flag says so, as bytes after the JSON."""
    outputs, data = [], b""
    for name, (array, binary) in tensors.items():
        about: dict[str, object] = {"name": name, "datatype": OUTPUTS[name].datatype, "shape": array.shape}
        if binary:
            raw = binary_tensor(array)
            outputs.append({**about, "parameters": {"binary_data_size": len(raw)}})
            data += raw
        else:
            outputs.append({**about, "data": array.ravel().tolist()})
    head = to_json({**content, "outputs": outputs}).encode("utf-8", "backslashreplace")
    if not any(binary for _, binary in tensors.values()):
        return Response(head, media_type="application/json")
    return Response(head + data, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def binary_tensor(array: NDArray[np.generic]) -> bytes:
    """A tensor by the binary extension: little-endian numbers; each text after its length, as in `elements`."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(struct.pack("<I", len(raw)) + raw for raw in (str(text).encode() for text in array.ravel()))


def check_name(request: Request) -> Service:
    """The service; raises RequestError where the address names another model, or another version."""
    service: Service = request.state.service
    served = {"name": service.name, "version": MODEL_VERSION}
    for part, given in request.path_params.items():
        if given != served[part]:
            raise RequestError(
                404, "request", f"got {part} {given[:80]!r} of a model, expected {served[part]!r}; correct the address"
            )
    return service


def read_request(body: bytes, header_length: str | None) -> tuple[Mapping[str, object], list[bytes]]:
    """The JSON of a request, and its pictures; raises RequestError for what is no request for some.

    header_length: bytes of JSON in the body, as a header says; None: all.
    """
    stated = str(len(body)) if header_length is None else header_length
    length = int(stated) if stated.isdecimal() and len(stated) <= LONGEST_NUMBER else -1
    if not 0 <= length <= len(body):
        raise bad(f"{HEADER_LENGTH}: {header_length}", f"the length of the JSON in a body of {len(body)} bytes")
    try:
        asked = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise bad("a body that is no JSON", "a request of the protocol, or POST /detect for a bare picture") from None
    inputs = asked.get("inputs") if isinstance(asked, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise bad("a request without one input", "one input of type BYTES")
    tensor = inputs[0]
    if tensor.get("name") != INPUT or tensor.get("datatype") != "BYTES":
        raise bad(f"the input {tensor.get('name')!r} of {tensor.get('datatype')!r}", f"the input {INPUT!r} of BYTES")
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    pictures = decoded(tensor.get("data")) if size is None else elements(body[length:], size)
    shape = tensor.get("shape")
    if shape not in ([len(pictures)], [len(pictures), 1]) or not pictures:
        raise bad(f"the shape {shape!r} of {len(pictures)} pictures", "[N] for N pictures, at least one")
    return asked, pictures


def decoded(data: object) -> list[bytes]:
    """Pictures that stand in JSON, as base64."""
    texts = data if isinstance(data, list) else []
    try:
        return [base64.b64decode(str(text), validate=True) for text in texts]
    except ValueError:
        raise bad("data that is no base64", "pictures as base64, or the binary extension") from None


def elements(data: bytes, size: object) -> list[bytes]:
    """Pictures of the binary extension: each after its length, four bytes little-endian."""
    if size != len(data):
        raise bad(f"{len(data)} bytes of pictures", f"{size}, as binary_data_size says")
    found, at = [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise bad("a picture that is cut off", "each after its length, four bytes little-endian")
    return found


def wanted_outputs(asked: Mapping[str, object]) -> dict[str, bool]:
    """Names of the outputs that a request asks for, by default all, and whether each is to come as bytes."""
    all_binary = flag(asked, "binary_data_output", default=False)
    outputs = asked.get("outputs") or [{"name": name} for name in OUTPUTS]
    entries = [each for each in outputs if isinstance(each, dict)] if isinstance(outputs, list) else []
    wanted = {str(each.get("name")): flag(each, "binary_data", default=all_binary) for each in entries}
    if not wanted or not wanted.keys() <= OUTPUTS.keys():
        raise bad(f"the outputs {str(list(wanted))[:100]}", f"some of {', '.join(OUTPUTS)}")
    return wanted


def flag(of: Mapping[str, object], name: str, *, default: bool) -> bool:
    """A parameter that is true or false, of a request or of an output; raises RequestError where it is neither."""
    parameters = of.get("parameters")
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise bad(f"{name}: {str(value)[:100]}", "true or false")
    return value


def bad(got: str, expected: str) -> RequestError:
    """Of a request of the protocol."""
    return RequestError(422, "request", f"got {got[:200]}, expected {expected}; correct the request")


def output_arrays(service: Service, results: Sequence[Result]) -> dict[str, NDArray[np.generic]]:
    """The outputs by name, first axis N; places after a picture's own detections are blank."""
    about = service.model.description
    most = max(about.thresholds.max_detections, *map(len, results))
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.full((len(results), *(most if n == D else n for n in each.shape)), each.blank, each.dtype)
        for name, each in OUTPUTS.items()
    }
    for i, result in enumerate(results):
        found = len(result)
        arrays["boxes"][i, :found], arrays["edge_std"][i, :found] = result.boxes_xyxy, result.edge_std
        arrays["scores"][i, :found], arrays["labels"][i, :found] = result.scores, result.labels
        arrays["category_ids"][i, :found], arrays["count"][i] = result.category_ids, found
        arrays["rows"][i] = encode(row_of(result, i + 1, about.category_ids)).decode().rstrip()
    return arrays
