"""What an .onnx says of itself is read before ONNX Runtime opens it, and one that names other files is not opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_onnx import DESCRIPTION, write_onnx

from gfl.errors import InputError
from gfl.runtime import onnx_file
from gfl.runtime.description import Description
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.onnx_header import read_metadata


def external(location: str) -> TensorProto:
    """A tensor whose data lie in another file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1, 3, 3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0]
    model.graph.initializer.append(external("/etc/passwd"))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(external("../weights.bin"))


def constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["x"], value=external("link.bin")))


def branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [external("weights.bin")])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["x"], value=external("weights.bin"))
    model.functions.add(name="f", domain="d").node.append(node)


@pytest.mark.parametrize("change", [initializer, sparse, constant, branch, function])
def test_weights_in_another_file_are_refused_before_a_session_opens(
    change: Callable[[onnx.ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "ProviderSession", None)
    path = write_onnx(tmp_path / "a.onnx")
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"a\.onnx takes weights from another file, expected all inside"):
        open_onnx(path)


def test_metadata_are_those_that_onnx_reads(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    assert read_metadata(path) == {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert read_metadata(path) == DESCRIPTION.to_metadata()


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"\x3a\xff\xff\xff\xff\x7f", b"\x80" * 30, b"\x3b\x3c", b"\x38\x01"]
)
def test_what_is_no_model_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.onnx (cannot be read as an \.onnx|is no export of this project)"):
        open_onnx(tmp_path / "a.onnx")


def test_a_model_cut_short_anywhere_is_one_sentence(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "a.onnx").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "a.onnx").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.onnx "):
            open_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("key", "value"), [("size", "[1000000, 1000000]"), ("batch", "1000000000"), ("size", "[0, 64]")]
)
def test_a_description_of_a_batch_that_no_machine_holds_is_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match="describes itself in a way that this one cannot read"):
        Description.from_metadata(DESCRIPTION.to_metadata() | {key: value}, "a.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "[]"),
        ("names", '[["a"], ["b"], ["c"]]'),
        ("category_ids", "[1, 2]"),
        ("category_ids", '["1", "2", "8"]'),
        ("score_thresholds", "[]"),
        ("score_thresholds", '["a", "b", "c"]'),
        ("score_thresholds", "[NaN, 0.3, 0.3]"),
        ("mean", "[1]"),
        ("thresholds", '{"score": "a", "nms_iou": 0.6, "max_detections": 1, "candidates": 1, "rounds": 1}'),
        ("thresholds", '{"score": 0, "nms_iou": 1, "max_detections": 1, "candidates": 1, "rounds": 1, "nms": 1}'),
    ],
)
def test_a_description_of_other_values_than_ours_is_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match="describes itself in a way that this one cannot read"):
        Description.from_metadata(DESCRIPTION.to_metadata() | {key: value}, "a.onnx")


def test_a_file_that_takes_other_pictures_than_it_says_is_one_sentence(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "a.onnx"))
    onnx.helper.set_model_props(model, DESCRIPTION.to_metadata() | {"batch": "3"})
    onnx.save(model, tmp_path / "b.onnx")
    opened = open_onnx(tmp_path / "b.onnx", threads=1)
    height, width = opened.description.size
    with pytest.raises(InputError, match=r"b\.onnx does not take the pictures that it describes"):
        opened.run(np.zeros((3, 3, height, width), np.uint8), np.zeros((3, 2), np.int32))
