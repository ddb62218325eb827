"""The exported file, read back with the onnx package and run on ONNX Runtime, beside the PyTorch that it came from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import golden_cases
import numpy as np
import onnx
import plain_runtime
import pytest
import tiny
import tiny_onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_export import (
    BINDINGS,
    CATEGORY_IDS,
    NAMES,
    Export,
    assert_same_detections,
    damaged,
    dtypes_of,
    evaluate_flags,
    export,
    export_translated,
    operators_of,
    tiny_graph,
    trained_flags,
    write_model,
)

from export import compare_onnx, write_onnx
from export import onnx as program
from export.check import TABLE, violations
from export.divergence import SideBySide
from export.graph import graph_of, trace
from export.parity import Parity, compare_detections, detections_of
from export.samples import batches, draw_samples, picture_files, read_samples
from export.translate import Translation, to_onnx
from gfl import evaluate
from gfl.config import read_text
from gfl.data.coco import read_coco
from gfl.engine.checkpoints import load_trained
from gfl.errors import InputError
from gfl.model import detector, postprocess
from gfl.model.anchors import make_grid
from gfl.model.detector import DetectorConfig
from gfl.model.postprocess import PredictConfig
from gfl.model.prepare import Prepared
from gfl.model.structures import Outputs
from gfl.runtime.description import DETECTION_NAMES, Arrays, Description
from gfl.runtime.on_torch.device import to_arrays
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.onnx_session import open_session
from gfl.runtime.open import open_model
from gfl.tensors.variables import Variables, flatten
from gfl.version import VERSION

H, W = CANVAS = tiny.CANVAS
PICTURES = next(batches(draw_samples(CANVAS, 2), CANVAS, 2))  # the first fills the canvas, the second does not


# ---- what the tests share ----


def dtype_and_shape(value: onnx.ValueInfoProto) -> tuple[str, tuple[int, ...]]:
    kind = value.type.tensor_type
    return helper.tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(size.dim_value for size in kind.shape.dim)


class Model(NamedTuple):
    """The model that was exported."""

    checkpoint: Path
    cfg: DetectorConfig
    prepared: Prepared


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    checkpoint = write_model(tmp_path_factory.mktemp("run") / "best.pt")
    loaded = load_trained(checkpoint)
    cfg = loaded.run.detector
    return Model(checkpoint, cfg, detector.prepare(loaded.variables, detector.freeze(loaded.variables, cfg)))


@pytest.fixture(scope="module")
def pair(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The tiny model for two pictures at a time, detections out."""
    return export_translated(model.checkpoint, tmp_path_factory.mktemp("pair") / "pair.onnx", "--batch", 2)


@pytest.fixture(scope="module")
def sizes_folder(model: Model, pair: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in both of the run's canvases, the second written without a comparison."""
    folder = tmp_path_factory.mktemp("sizes")
    shutil.copy(pair.path, folder / f"best_{H}x{W}.onnx")
    (folder / f"best_{W}x{H}.parity.json").write_text("{}")  # of an earlier file
    export("--checkpoint", model.checkpoint, "--size", f"{W}x{H}", "--batch", 2, "--output", folder, "--skip_parity")
    return folder


# ---- the file ----


def test_file_is_a_static_graph_of_operators_that_cann_takes(pair: Export) -> None:
    file = pair.model
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 17)]
    assert file.ir_version == 8
    assert operators_of(pair.path) <= TABLE
    assert set(dtypes_of(file).values()) <= {"FLOAT", "INT32", "INT64", "UINT8", "BOOL"}
    assert violations(file) == ()


def test_file_takes_and_gives_what_is_promised(pair: Export) -> None:
    graph = onnx.load(pair.path).graph
    assert {value.name: dtype_and_shape(value) for value in graph.input} == {
        "images": ("uint8", (2, 3, H, W)),
        "image_sizes": ("int32", (2, 2)),
    }
    assert {value.name: dtype_and_shape(value) for value in graph.output} == {
        "boxes": ("float32", (2, 100, 4)),
        "scores": ("float32", (2, 100)),
        "labels": ("int32", (2, 100)),
        "count": ("int32", (2,)),
        "edge_std": ("float32", (2, 100, 4)),
        "complete": ("int32", (2,)),
    }


def test_file_describes_itself(pair: Export, model: Model) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(pair.path).metadata_props}
    assert json.loads(metadata["names"]) == list(NAMES)
    assert json.loads(metadata["category_ids"]) == list(CATEGORY_IDS)
    assert json.loads(metadata["size"]) == [H, W]
    assert json.loads(metadata["mean"]) == list(model.cfg.mean)
    assert json.loads(metadata["std"]) == list(model.cfg.std)
    assert json.loads(metadata["thresholds"])["nms_iou"] == 0.6
    assert (metadata["layout"], metadata["colour_order"]) == ("NCHW uint8", "RGB")
    assert "zeros" in metadata["pad"]
    assert "xyxy" in metadata["box_format"]
    about = open_onnx(pair.path, threads=1).description
    assert (about.version, about.outputs, about.precision, about.batch) == (VERSION, "detections", "fp32", 2)
    assert (about.short_side, about.long_side) == (64, 96)
    assert replace(read_text(about.config).run.detector, num_classes=len(NAMES)) == model.cfg
    assert Description.from_metadata(about.to_metadata(), "here") == about


def test_file_names_weights_by_their_paths_and_no_file_of_the_machine(pair: Export, model: Model) -> None:
    names = {tensor.name for tensor in onnx.load(pair.path).graph.initializer}
    convolutions = {
        path for path, leaf in flatten(model.prepared.tree).items() if leaf.ndim == 4 and "reg_conf" not in path
    }
    assert convolutions <= names
    assert str(Path(detector.__file__).parent).encode() not in pair.path.read_bytes()


def test_one_file_and_its_report_are_all_that_is_left(pair: Export) -> None:
    assert sorted(entry.name for entry in pair.path.parent.iterdir()) == ["pair.onnx", "pair.parity.json"]
    report = json.loads(pair.path.with_suffix(".parity.json").read_text())
    assert report["passed"]
    assert report["matched"] > 20
    assert len(report["pictures"]) == 4
    assert (report["failures"], report["excused"]) == ([], [])
    assert report["largest"]["scores"] < 1e-5
    assert report["largest"]["boxes"] < 5e-3


def test_export_ends_with_what_was_written_and_what_to_do_next(pair: Export) -> None:
    for part in (str(pair.path), "opset 17", "uint8    2x3x64x96", "float32  2x100x4", "largest difference: scores"):
        assert part in pair.said
    assert f"next: python -m gfl.evaluate --onnx {pair.path}" in pair.said.splitlines()[-1]


def test_a_file_that_was_not_compared_has_no_report_beside_it(sizes_folder: Path) -> None:
    assert sorted(entry.name for entry in sizes_folder.iterdir()) == [f"best_{H}x{W}.onnx", f"best_{W}x{H}.onnx"]


# ---- what it computes ----


def test_a_blank_finds_nothing_and_changes_no_neighbour(pair: Export) -> None:
    images, sizes = PICTURES.images.copy(), PICTURES.image_sizes.copy()
    session = open_onnx(pair.path, threads=1)
    both = session.run(images, sizes)
    images[1], sizes[1] = 0, 0
    with_blank = session.run(images, sizes)
    assert with_blank["count"][1] == 0
    assert (with_blank["labels"][1] == -1).all()
    for name, array in both.items():
        np.testing.assert_array_equal(array[0], with_blank[name][0])


ANCHORS = [8 * 12, 4 * 6, 2 * 3, 1 * 2, 1 * 1]  # by level, of a canvas of 64 x 96
SHAPES_OF_OUTPUTS = {
    "decoded": {"boxes": (1, sum(ANCHORS), 4), "scores": (1, sum(ANCHORS), len(NAMES))},
    "raw": {f"scores_p{level}": (1, anchors, len(NAMES)) for level, anchors in enumerate(ANCHORS, start=3)}
    | {f"edge_logits_p{level}": (1, anchors, 4, 17) for level, anchors in enumerate(ANCHORS, start=3)},
}


# The files whose outputs are detections: `pair`, and in fp16 tests/test_export_precision.py.
@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])  # an export each
@pytest.mark.parametrize("outputs", ["decoded", pytest.param("raw", marks=pytest.mark.slow)])
def test_other_outputs_are_those_of_pytorch(outputs: str, precision: str, model: Model, tmp_path: Path) -> None:
    flags = ("--outputs", outputs, "--precision", precision, "--samples", 2)
    made = export_translated(model.checkpoint, tmp_path / "part.onnx", *flags)
    assert operators_of(made.path) <= TABLE
    outputs_of_file = [(value.name, dtype_and_shape(value)[1]) for value in made.model.graph.output]
    assert outputs_of_file == list(SHAPES_OF_OUTPUTS[outputs].items())
    if precision == "fp32":
        largest = made.report["largest"]
        assert isinstance(largest, dict)
        assert largest.keys() == SHAPES_OF_OUTPUTS[outputs].keys()
        assert all(difference < (5e-3 if name == "boxes" else 1e-4) for name, difference in largest.items())


def test_decoded_scores_are_zero_outside_the_picture(model: Model) -> None:
    images, sizes = torch.from_numpy(PICTURES.images[:1]), torch.tensor([[30, 40]], dtype=torch.int32)
    graph = graph_of("decoded", CANVAS, model.cfg)
    outputs = graph.function(model.prepared.tree, images, sizes)
    found = to_arrays(outputs, graph.output_names)
    inside = (make_grid(CANVAS).centres_px < torch.tensor([64, 32])).all(dim=1).numpy()  # its own shape: 32 x 64
    assert (found["scores"][0, ~inside] == 0).all()
    assert (found["scores"][0, inside] > 0).all()
    assert found["boxes"].min() >= 0
    assert found["boxes"][0, :, 2:].max(axis=0).tolist() == [40.0, 30.0]


# ---- the gate ----


@pytest.mark.parametrize(
    "weight", ["backbone.layer3.0.conv2.weight", "neck.fpn_convs.1.conv.weight", "bbox_head.gfl_reg.weight"]
)
def test_graphs_part_where_a_weight_was_damaged(pair: Export, weight: str) -> None:
    parting = SideBySide(*damaged(pair.translation, weight), PICTURES.inputs).first_parting()
    assert parting is not None
    assert parting.weight == weight
    assert weight in str(parting)


def test_equal_graphs_do_not_part(pair: Export) -> None:
    inside = SideBySide(*pair.translation, PICTURES.inputs)
    assert inside.first_parting() is None
    assert max(inside.overview().values()) < 1e-4


def test_a_file_that_differs_from_pytorch_is_not_left_behind(
    pair: Export, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = damaged(pair.translation, "neck.fpn_convs.1.conv.weight")
    monkeypatch.setattr(write_onnx, "translate", lambda *arguments: broken)
    path = tmp_path / "new" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"of an earlier export")
    flags = ["--checkpoint", str(model.checkpoint), "--size", f"{H}x{W}", "--batch", "2", "--output", str(path)]
    assert program.main(flags) == 1
    said = capsys.readouterr().err
    assert said.startswith("failed: ")
    assert "the graphs part at" in said
    assert "neck.fpn_convs.1.conv.weight" in said
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.onnx.old", "model.parity.json"]
    report = json.loads(path.with_suffix(".parity.json").read_text())
    assert not report["passed"]
    assert len(report["failures"]) > 1


def test_a_model_that_finds_nothing_above_its_threshold_is_compared_below_it(
    pair: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = onnx.ModelProto()
    strict.CopyFrom(pair.translation.model)
    for tensor in strict.graph.initializer:
        if not tensor.dims and numpy_helper.to_array(tensor) == np.float32(0.05):
            tensor.CopyFrom(numpy_helper.from_array(np.array(0.999, np.float32), tensor.name))
    monkeypatch.setattr(write_onnx, "translate", lambda *arguments: Translation(strict, pair.translation.program))
    monkeypatch.setattr(compare_onnx, "compare_inside", lambda *arguments: None)  # the program has the old threshold
    bindings = (*BINDINGS, "postprocess.PredictConfig.score_threshold = 0.999")
    checkpoint, path = write_model(tmp_path / "best.pt", bindings), tmp_path / "best.onnx"
    said = export("--checkpoint", checkpoint, "--size", f"{H}x{W}", "--batch", 2, "--output", path)
    report = json.loads(path.with_suffix(".parity.json").read_text())
    assert (report["passed"], report["unchecked"], report["score_threshold"]) == (True, False, 0.0)
    assert report["matched"] > 10
    assert report["checkpoint"] == "best.pt"
    assert "nothing was detected above the score threshold" in said
    assert "atc --" not in said  # which is for NPUs alone: `python -m export.om` prints and runs its command


@pytest.mark.parametrize(
    ("model", "finding"),
    [
        (tiny_graph("Relu", opset=18), "opset ai.onnx 18"),
        (tiny_graph("Relu", ir=9), "IR version 9"),
        (tiny_graph("Relu", dtype=TensorProto.DOUBLE), "a is double"),
        (tiny_graph("Relu", shape=("batch", 3)), "a has no fixed shape"),
        (tiny_graph("NonZero"), "operator NonZero"),
        (tiny_graph("Tan"), "operator Tan"),  # of ATC's list alone
        (tiny_graph("NonZero"), "c has no fixed shape"),
        (tiny_graph("Add", dtype=TensorProto.INT64), "computes in int64"),
        (tiny_graph("Sinh", dtype=TensorProto.INT32), "not valid ONNX"),
    ],
)
def test_check_finds_what_breaks_the_rules(model: onnx.ModelProto, finding: str) -> None:
    assert any(finding in each for each in violations(model))


def test_check_passes_a_plain_graph() -> None:
    assert violations(tiny_graph("Relu")) == ()


def test_generated_samples_fit_any_canvas_and_stay_the_same() -> None:
    for canvas in ((32, 32), (64, 96), (320, 256)):
        samples = list(draw_samples(canvas, 6))
        assert samples[0].image.shape[:2] == canvas or min(canvas) < 64
        assert all(sample.image.shape[0] <= canvas[0] and sample.image.shape[1] <= canvas[1] for sample in samples)
        again = draw_samples(canvas, 6)
        assert all(np.array_equal(a.image, b.image) for a, b in zip(samples, again, strict=True))


# ---- the command line ----


def test_terminated_program_leaves_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch system sends SIGTERM; here while the file is written."""

    def terminated(*_: object) -> None:
        assert list(tmp_path.glob(".best.onnx.*.tmp"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(write_onnx, "translate", terminated)
    path = tmp_path / "best.onnx"
    flags = ["--checkpoint", str(model.checkpoint), "--size", f"{H}x{W}", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["export.onnx", *flags])
    usual = signal.getsignal(signal.SIGTERM)
    try:
        assert program.main() == 143
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert "stopped; files that were finished stay" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- evaluation of the file ----


@pytest.mark.parametrize("canvases", [(CANVAS,), (CANVAS, (W, H))], ids=["file", "folder"])
def test_evaluation_of_what_was_exported_is_that_of_the_checkpoint(
    canvases: tuple[tuple[int, int], ...], pair: Export, sizes_folder: Path, model: Model, tmp_path: Path
) -> None:
    data = tiny.write_data(tmp_path / "data")
    tiny.change_annotations(data, tiny.turn_ids, "val")  # classes are mapped by name, in the file as in the checkpoint
    exported = pair.path if len(canvases) == 1 else sizes_folder
    # On the same canvases: the model sees the padding, so on others the scores would differ a little.
    bound = ["--gin_bindings", f"CANVASES = {canvases!r}"]
    for name, source in (("onnx", ["--onnx", exported]), ("pt", ["--checkpoint", model.checkpoint, *bound])):
        flags = [*map(str, source), *evaluate_flags(data), "--output", str(tmp_path / name)]
        assert evaluate.main(flags) == 0
    assert_same_detections(tmp_path / "onnx", tmp_path / "pt")


def test_a_folder_is_opened_as_one_model(tmp_path: Path) -> None:
    for size in ((H, W), (W, H)):
        tiny_onnx.write_onnx(tmp_path / f"{size}.onnx", size=size)
    assert open_model(tmp_path, threads=1).canvases == ((H, W), (W, H))
    tiny_onnx.write_onnx(tmp_path / "single.onnx", size=(H, H), batch=1)
    with pytest.raises(InputError, match="not exports of one model in one precision and batch size"):
        open_model(tmp_path, threads=1)


def test_flags_that_the_file_settles_are_refused(
    pair: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.write_data(tmp_path / "data")
    flags = [*evaluate_flags(data), "--batch", "3"]
    assert "--batch" in tiny.refusal(evaluate.main, ["--onnx", str(pair.path), *flags], capsys)


# ---- trained weights on real pictures ----


@pytest.fixture(scope="module")
def trained(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained blood cell model, compared with PyTorch on six of its pictures."""
    path = tmp_path_factory.mktemp("trained") / "bccd.onnx"
    checked = ("--size", "256x320", "--images", test_data / "bccd" / "val", "--samples", 6)
    export(*trained_flags(test_data), *checked, "--output", path)
    return path


def test_trained_model_agrees_on_real_pictures(trained: Path) -> None:
    report = json.loads(trained.with_suffix(".parity.json").read_text())
    assert report["passed"]
    assert all(name.startswith("BloodImage") for name in report["pictures"])
    assert report["matched"] > 300
    assert (report["failures"], report["excused"]) == ([], [])
    assert report["largest"]["scores"] < 1e-5
    assert report["largest"]["boxes"] < 5e-3


@pytest.mark.slow  # 87 pictures through both take 20 s
def test_trained_model_keeps_its_average_precision(trained: Path, test_data: Path, tmp_path: Path) -> None:
    bccd = test_data / "bccd"
    data = read_coco(bccd / "annotations" / "instances_val.json", bccd / "val", keep_empty=True)
    common = ["--annotations", str(data.annotations), "--images", str(bccd / "val"), "--workers", "0"]
    metrics = []
    for name, source in (("onnx", ["--onnx", str(trained)]), ("pth", trained_flags(test_data))):
        assert evaluate.main([*source, *common, "--output", str(tmp_path / name)]) == 0
        metrics.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    ours, theirs = metrics
    assert ours["images"] == theirs["images"] == 87
    assert ours["AP"] > 0.5
    for name in ("AP", "AP50", "AP75", "AR100"):
        assert abs(ours[name] - theirs[name]) <= 5e-4


OLDEST = "GFL_OLDEST_ORT"  # a Python with NumPy and the oldest ONNX Runtime that setup.py allows


def test_the_oldest_and_the_newest_onnx_runtime_find_the_same(trained: Path, test_data: Path, tmp_path: Path) -> None:
    oldest = os.environ.get(OLDEST)
    if not oldest:
        pytest.skip(f"{OLDEST} is unset: it names a Python with onnxruntime==1.16.0 and numpy<2")
    files = picture_files(test_data / "bccd" / "val", 20)
    rows = list(
        batches(
            read_samples(files, (256, 320), golden_cases.SMALL_SHORT_SIDE, golden_cases.SMALL_LONG_SIDE), (256, 320), 1
        )
    )
    stacked = {name: np.stack([row.inputs[name] for row in rows]) for name in rows[0].inputs}
    np.savez(tmp_path / "in.npz", **stacked)
    outputs, versions = [], []
    for python in (oldest, sys.executable):
        file = tmp_path / f"{len(outputs)}.npz"
        command = [python, plain_runtime.__file__, str(trained), str(tmp_path / "in.npz"), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        versions.append(done.stdout.strip())
        outputs.append(dict(np.load(file)))
    assert versions[0] != versions[1]
    parity = Parity()
    for index, name in enumerate(files):
        old, new = ({key: array[index] for key, array in side.items()} for side in outputs)
        compare_detections(parity, (name.name,), old, new, open_onnx(trained).description.thresholds)
    assert parity.matched > 1000
    assert (parity.failures, parity.excused) == ([], [])
    assert parity.largest["boxes"] < 0.01  # px
    assert parity.largest["scores"] < 2e-5


# ---- parts of the graph against the authors' numbers ----


def export_part(
    function: Callable[..., tuple[torch.Tensor, ...]],
    tree: Variables,
    inputs: dict[str, torch.Tensor],
    names: Sequence[str],
    path: Path,
) -> Arrays:
    """Export a part of the model that keeps all rules, and run it once."""
    made = to_onnx(trace(function, tree, list(inputs.values())), list(inputs), names).model
    assert violations(made) == ()
    onnx.save(made, path)
    session = open_session(str(path), threads=torch.get_num_threads())
    arrays = session.run(list(names), {name: tensor.numpy() for name, tensor in inputs.items()})
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


@pytest.mark.slow  # an export a setting of the reference's post-processing
@pytest.mark.parametrize("name", ["synth", "synth_rescale", "synth_pre50"])
def test_post_processing_exported_alone_gives_the_golden_detections(name: str, goldens: Path, tmp_path: Path) -> None:
    arrays, case = golden_cases.read(goldens, "detect.npz"), golden_cases.detect_case(name)
    grid = make_grid(golden_cases.CANVAS_HW)
    head = golden_cases.synthetic_outputs(int(arrays["synth_seed"]), grid)
    cfg = PredictConfig(
        score_threshold=case.score_threshold, nms_pre=case.nms_pre, keep_background=True, keep_padding_cells=True
    )

    def detect(
        _: Variables, scores: torch.Tensor, logits: torch.Tensor, sizes: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return tuple(postprocess.detect(Outputs(scores, logits), sizes, grid, 80, cfg))

    inputs = {"head_scores": head.scores, "edge_logits": head.edge_logits, "image_sizes": case.image_sizes}
    out = export_part(detect, {}, inputs, DETECTION_NAMES, tmp_path / "detect.onnx")
    assert out["complete"].tolist() == [1, 1]
    for i in range(2):
        golden, one = arrays[f"{name}.img{i}.det_bboxes"].astype(np.float64), detections_of(out, i)
        np.testing.assert_array_equal(one.labels, arrays[f"{name}.img{i}.det_labels"])
        np.testing.assert_allclose(one.boxes / case.scale_xyxy.numpy(), golden[:, :4], rtol=0, atol=2e-3)
        np.testing.assert_allclose(one.scores, golden[:, 4], rtol=1e-6)


@pytest.mark.slow  # an R50
def test_forward_exported_alone_gives_the_golden_forward(goldens: Path, tmp_path: Path) -> None:
    arrays, cfg, grid = golden_cases.read(goldens, "forward.npz"), DetectorConfig(), make_grid(golden_cases.CANVAS_HW)
    variables = golden_cases.filled(detector.init(cfg))
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    images = golden_cases.normal_input(int(arrays["input_seed"]))

    def forward(tree: Variables, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(detector.forward(Prepared(tree), images, cfg))

    out = export_part(forward, prepared.tree, {"images": images}, ("scores", "edge_logits"), tmp_path / "forward.onnx")
    for kind, name, tolerance in (("cls", "scores", 1e-5), ("reg", "edge_logits", 1e-4)):
        flat = torch.from_numpy(out[name]).flatten(2)
        for level, piece in zip(golden_cases.LEVELS, golden_cases.by_level(flat, grid), strict=True):
            golden, step = arrays[f"{kind}.{level}.flat"].astype(np.float64), int(arrays[f"{kind}.{level}.step"])
            np.testing.assert_allclose(piece.reshape(-1)[::step].numpy(), golden, rtol=0, atol=tolerance)
