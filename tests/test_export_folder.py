"""Files of one model in one folder: the digest, and what is refused beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_onnx
import torch
from tiny_export import write_model
from tiny_onnx import DESCRIPTION

from export import onnx as program
from export.folder import refuse_others
from gfl.engine.checkpoints import TrainedModel, load_trained
from gfl.errors import InputError
from gfl.runtime.on_torch.digest import digest_of
from gfl.runtime.open import open_model
from gfl.tensors.variables import flatten

H, W = tiny.CANVAS
OWN, OTHER = "1" * 64, "2" * 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "best.pt")


def test_digest_is_that_of_weights_and_settings(checkpoint: Path) -> None:
    model = load_trained(checkpoint)

    def digest(model: TrainedModel, outputs: str = "detections", precision: str = "fp32") -> str:
        return digest_of(model, outputs=outputs, precision=precision)

    own = digest(model)
    assert own == digest(load_trained(checkpoint))
    assert len(own) == 64
    detector = model.run.detector
    lower = replace(detector, predict=replace(detector.predict, score_threshold=0.01))
    others = {
        digest(model, precision="fp16"),
        digest(model, outputs="raw"),
        digest(replace(model, names=tuple(reversed(model.names)))),
        digest(replace(model, run=replace(model.run, detector=lower))),
        digest(replace(model, run=replace(model.run, data=replace(model.run.data, long_side=1000)))),
    }
    with torch.no_grad():
        flatten(model.variables)["bbox_head.gfl_cls.bias"][0] += 1e-6
    others.add(digest(model))
    assert len(others | {own}) == 7


def test_a_folder_of_two_models_is_refused_by_their_digests(tmp_path: Path) -> None:
    tiny_onnx.write_onnx(tmp_path / "a.onnx", size=(H, W), digest=OWN)
    tiny_onnx.write_onnx(tmp_path / "b.onnx", size=(W, H), digest=OWN)
    assert open_model(tmp_path, threads=1).canvases == ((H, W), (W, H))
    tiny_onnx.write_onnx(tmp_path / "b.onnx", size=(W, H))  # an older one says nothing
    assert open_model(tmp_path, threads=1).canvases == ((H, W), (W, H))
    tiny_onnx.write_onnx(tmp_path / "b.onnx", size=(W, H), digest=OTHER)
    with pytest.raises(InputError, match="not exports of one model"):
        open_model(tmp_path, threads=1)


def test_files_of_another_export_are_refused_unless_they_will_be_replaced(tmp_path: Path) -> None:
    own = replace(DESCRIPTION, digest=OWN)
    written = [tmp_path / "a.onnx"]
    refuse_others(tmp_path, written, own)  # an empty folder
    refuse_others(tmp_path / "new", written, own)
    for name, digest in (("a.onnx", OTHER), ("b.onnx", OWN)):
        tiny_onnx.write_onnx(tmp_path / name, digest=digest)
    refuse_others(tmp_path, written, own)
    tiny_onnx.write_onnx(tmp_path / "c.onnx", digest=OTHER)
    with pytest.raises(InputError, match=r"holds c.onnx of another export"):
        refuse_others(tmp_path, written, own)
    (tmp_path / "c.onnx").write_bytes(b"none at all")
    with pytest.raises(InputError, match=r"holds c.onnx of another export"):
        refuse_others(tmp_path, written, own)


def test_the_program_refuses_a_folder_of_another_export_before_it_begins(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_onnx.write_onnx(tmp_path / "best_96x96.onnx", size=(96, 96), digest=OTHER)
    flags = ["--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert "holds best_96x96.onnx of another export" in tiny.refusal(program.main, flags, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["best_96x96.onnx"]
