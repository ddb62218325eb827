"""The Open Inference Protocol: descriptions, pictures as BYTES in JSON and in the binary extension, bad requests."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from tiny_onnx import write_onnx

from gfl.runtime.open import open_model

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from http_server import Answer, Client, noise, serving  # they need it

PICTURES = [noise(64, 96, seed=0), noise(50, 90, seed=1)]
INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(open_model(write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx"))) as client:
        yield client


def tensor(pictures: Sequence[bytes]) -> dict[str, object]:
    """The input, in JSON."""
    data = [base64.b64encode(picture).decode() for picture in pictures]
    return {"name": "image", "datatype": "BYTES", "shape": [len(pictures)], "data": data}


def infer(client: Client, content: object) -> Answer:
    return client.send("POST", INFER, json.dumps(content).encode(), {"Content-Type": "application/json"})


def infer_binary(client: Client, pictures: Sequence[bytes], **changed: object) -> Answer:
    """A request by the extension for binary tensors."""
    data = b"".join(struct.pack("<I", len(picture)) + picture for picture in pictures)
    given = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(pictures)],
        "parameters": {"binary_data_size": len(data)},
        **changed,
    }
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return client.send("POST", INFER, head + data, headers)


def arrays(answer: Answer) -> dict[str, np.ndarray]:  # type: ignore[type-arg]  # of several types
    assert answer.status == 200, answer
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in answer.json["outputs"]}


def test_a_server_and_its_model_are_described(client: Client) -> None:
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    about = client.get("/v2/models/tiny").json
    assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    shapes = {each["name"]: each["shape"] for each in about["outputs"]}
    assert shapes["boxes"] == [-1, 100, 4]
    assert shapes["count"] == [-1]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        assert client.get(path).status == 200
    assert client.get("/v2/models/tiny/versions/1").json == about
    assert "version '2'" in client.get("/v2/models/tiny/versions/2").sentence
    assert client.get("/v2/models/other").status == 404
    assert "'other'" in client.get("/v2/models/other/ready").sentence


def test_tensors_hold_what_the_rows_hold(client: Client) -> None:
    found = arrays(infer(client, {"inputs": [tensor(PICTURES)]}))
    rows = [json.loads(row) for row in found["rows"]]
    assert found["count"].tolist() == [1, 1] == [row["count"] for row in rows]
    assert found["boxes"].shape == (2, 100, 4)
    for i, row in enumerate(rows):
        x, y, width, height = row["detections"][0]["bbox"]
        np.testing.assert_allclose(found["boxes"][i, 0], [x, y, x + width, y + height], atol=0.01)
        assert round(float(found["scores"][i, 0]), 5) == row["detections"][0]["score"]
        assert found["category_ids"][i, :2].tolist() == [row["detections"][0]["category_id"], -1]
        assert found["labels"][i, :2].tolist() == [0, -1]
    bare = [client.detect(picture).json[0]["detections"] for picture in PICTURES]
    assert [row["detections"] for row in rows] == bare


def test_binary_and_base64_pictures_give_the_same(client: Client) -> None:
    assert infer_binary(client, PICTURES).json == infer(client, {"inputs": [tensor(PICTURES)]}).json


def test_outputs_come_as_bytes_where_they_are_asked_for(client: Client) -> None:
    in_json = arrays(infer(client, {"inputs": [tensor(PICTURES)]}))
    asked = {
        "inputs": [tensor(PICTURES)],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": name} for name in ("rows", "boxes", "category_ids")]
        + [{"name": "count", "parameters": {"binary_data": False}}],
    }
    answer = infer(client, asked)
    length = int(answer.headers["inference-header-content-length"])
    rows, boxes, category_ids, count = json.loads(answer.body[:length])["outputs"]
    assert count == {"name": "count", "datatype": "INT32", "shape": [2], "data": [1, 1]}
    assert [each["parameters"]["binary_data_size"] for each in (boxes, category_ids)] == [2 * 100 * 4 * 4, 2 * 100 * 8]
    data = answer.body[length:]
    size = rows["parameters"]["binary_data_size"]
    texts = [row.encode() for row in in_json["rows"]]
    assert data[:size] == b"".join(struct.pack("<I", len(text)) + text for text in texts)
    floats = np.frombuffer(data, "<f4", 800, offset=size).reshape(boxes["shape"])
    np.testing.assert_array_equal(floats, in_json["boxes"].astype(np.float32))
    numbers = np.frombuffer(data, "<i8", offset=size + floats.nbytes).reshape(category_ids["shape"])
    np.testing.assert_array_equal(numbers, in_json["category_ids"])


def test_the_id_comes_back_and_outputs_can_be_chosen(client: Client) -> None:
    asked = {"id": "7", "inputs": [tensor(PICTURES[:1])], "outputs": [{"name": "count"}, {"name": "scores"}]}
    answer = infer(client, asked).json
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "tiny", "1")
    assert {each["name"] for each in answer["outputs"]} == {"count", "scores"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "without one input"),
        ({"inputs": []}, "without one input"),
        ({"inputs": [{}]}, "the input None"),
        ({"inputs": [{**tensor(PICTURES), "datatype": "FP32"}]}, "'FP32'"),
        ({"inputs": [{**tensor(PICTURES), "shape": [3]}]}, "the shape [3] of 2 pictures"),
        ({"inputs": [{**tensor(PICTURES), "data": ["%"] * 2}]}, "no base64"),
        ({"inputs": [tensor([])]}, "at least one"),
        ({"inputs": [tensor([b"no picture"])]}, "cannot be decoded"),
        ({"inputs": [tensor(PICTURES)], "outputs": [{"name": "masks"}]}, "masks"),
        ({"inputs": [tensor(PICTURES)], "outputs": 5}, "the outputs"),
        ({"inputs": [tensor(PICTURES)], "parameters": {"binary_data_output": 1}}, "true or false"),
    ],
)
def test_a_bad_request_is_told_in_a_sentence(client: Client, content: Mapping[str, object], said: str) -> None:
    answer = infer(client, content)
    assert (answer.status, said in answer.sentence) == (422, True), answer


def test_bad_binary_requests_are_told_in_a_sentence(client: Client) -> None:
    assert "as binary_data_size says" in infer_binary(client, PICTURES, parameters={"binary_data_size": 5}).sentence
    no_json = client.send("POST", INFER, b"{}", {"Inference-Header-Content-Length": "3"})
    assert "the length of the JSON" in no_json.sentence
    assert "no JSON" in client.send("POST", INFER, b"\xff\xfe").sentence
    long = client.send("POST", INFER, b"{}", {"Inference-Header-Content-Length": "9" * 5000})
    assert (long.status, "the length of the JSON" in long.sentence) == (422, True)


@pytest.mark.parametrize("binary", [False, True])
def test_the_ready_made_client_detects(client: Client, binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    with http.InferenceServerClient(f"127.0.0.1:{client.port}") as ready_made:
        assert ready_made.is_server_live()
        assert ready_made.is_server_ready()
        assert ready_made.is_model_ready("tiny")
        assert ready_made.get_model_metadata("tiny")["name"] == "tiny"
        pictures = [picture if binary else base64.b64encode(picture) for picture in PICTURES]
        given = http.InferInput("image", [2], "BYTES")
        given.set_data_from_numpy(np.array(pictures, object), binary_data=binary)
        names = ("boxes", "scores", "category_ids", "labels", "edge_std", "count", "rows")
        chosen = [http.InferRequestedOutput(name, binary_data=binary) for name in names]
        asked = ((chosen, ""), (None, "1"))
        results = [ready_made.infer("tiny", [given], version, outputs) for outputs, version in asked]
    wanted = arrays(infer_binary(client, PICTURES))
    for result in results:
        for name in names:
            found = result.as_numpy(name)
            if name == "rows":  # the client gives bytes from a binary answer, texts from JSON
                found = np.array([row if isinstance(row, str) else row.decode() for row in found])
            np.testing.assert_array_equal(found, wanted[name].astype(found.dtype), name)
    assert ("parameters" in results[0].get_output("boxes")) == binary
