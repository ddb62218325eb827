"""fp16 and int8 files: what is computed in which dtype, what the gate counts, and what it lets through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from tiny_export import (
    NAMES,
    Export,
    Row,
    damaged,
    detection_arrays,
    dtypes_of,
    export,
    export_translated,
    operators_of,
    trained_flags,
    write_model,
)
from tiny_onnx import DESCRIPTION

from export import compare_onnx, write_onnx
from export import onnx as program
from export.accuracy import Accuracy, Comparison
from export.check import TABLE, violations
from export.compare import run_pytorch
from export.divergence import SideBySide
from export.graph import graph_of
from export.half import HalfRun
from export.precision import HALF, LARGEST_LOSS, LEFT_OVER, WAYS_OUT, LossLimits
from export.quantise import FLOAT_CONVOLUTIONS
from export.samples import SampleBatch, Truth, batches, draw_samples
from gfl import evaluate
from gfl.data.coco_json import ground_truth, read_coco_file
from gfl.engine.checkpoints import load_trained
from gfl.model import detector
from gfl.model.prepare import Prepared
from gfl.runtime.onnx_file import open_onnx
from gfl.tensors.precision import O1
from gfl.tensors.variables import flatten

H, W = tiny.CANVAS
# Folded norms in the backbone, so that convolutions follow each other; few rounds, for a small graph.
BINDINGS = (*tiny.BINDINGS, "resnet.ResNetConfig.norm = 'frozen_bn'", "postprocess.PredictConfig.rounds = 2")


# ---- what the tests share ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Surer, so that detections of PyTorch's are taken as true boxes and an AP can be counted.
    return write_model(tmp_path_factory.mktemp("run") / "best.pt", BINDINGS, [(H, W)], surer=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def half(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The tiny model in fp16, two pictures at a time, compared on generated ones."""
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    return export_translated(checkpoint, path, "--precision", "fp16", "--batch", 2)


@pytest.fixture(scope="module")
def int8(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The tiny model in int8, two pictures at a time, with ranges from three."""
    flags = ("--precision", "int8", "--images", data / "val2017", "--batch", 2)
    with pytest.MonkeyPatch.context() as patch:
        # Of random weights an int8 form loses what it loses: here it is the file that is looked at.
        patch.setitem(LARGEST_LOSS, "int8", LossLimits(*[9.0] * 9))
        return export_translated(checkpoint, tmp_path_factory.mktemp("int8") / "int8.onnx", *flags)


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes a value, by the value's name."""
    return {name: node for node in model.graph.node for name in node.output}


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


# ---- fp16 ----


def test_only_the_dgqp_of_the_weights_keeps_float32() -> None:
    cfg = tiny.detector_config("frozen_bn")
    variables = detector.init(cfg)
    constants = detector.freeze(variables, cfg)
    kept = flatten(detector.prepare(variables, constants, HALF).tree)
    trained = flatten(detector.prepare(variables, constants, O1).tree)
    for path, tensor in kept.items():
        reads_distribution = path.startswith("bbox_head.reg_conf.")
        assert tensor.dtype == (torch.float32 if reads_distribution else trained[path].dtype)
    assert {tensor.dtype for tensor in trained.values() if tensor.ndim == 4} == {torch.float16}


def test_fp16_file_convolves_in_half_and_reads_the_distribution_in_float(half: Export) -> None:
    model = half.model
    dtypes = dtypes_of(model)
    assert {dtypes[name] for node in convolutions(model) for name in (*node.input, *node.output)} == {"FLOAT16"}
    moved = {"Conv", "Cast", "Relu", "Add", "MaxPool", "Reshape", "Transpose", "Concat"}
    in_half = {node.op_type for node in model.graph.node if "FLOAT16" in {dtypes[name] for name in node.output}}
    assert in_half <= moved
    assert {"Softmax", "TopK", "InstanceNormalization", "Sigmoid", "Div"} <= {node.op_type for node in model.graph.node}
    assert [path for path, dtype in dtypes.items() if dtype == "FLOAT16" and "reg_conf" in path] == []
    assert {dtypes[value.name] for value in model.graph.output} == {"FLOAT", "INT32"}


def test_fp16_file_casts_nothing_to_and_fro(half: Export) -> None:
    model = half.model
    made = makers(model)
    assert [node.name for node in model.graph.node if node.op_type == "Cast" and made_by(made, node) == "Cast"] == []
    backbone = [node for node in convolutions(model) if node.input[1].startswith("backbone.")]
    assert len(backbone) == 20
    assert [node.input[1] for node in backbone if made_by(made, node) == "Cast"] == ["backbone.conv1.weight"]


def made_by(made: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> str:
    """The operator that makes the first input of a node; empty for inputs of the graph."""
    return made[node.input[0]].op_type if node.input[0] in made else ""


def test_fp16_file_keeps_the_rules_and_says_what_it_is(half: Export) -> None:
    assert violations(half.model) == ()
    assert operators_of(half.path) <= TABLE
    about = open_onnx(half.path).description
    assert (about.precision, about.names, about.size) == ("fp16", NAMES, (H, W))
    assert "on a CPU" in half.said
    assert half.report["precision"] == "fp16"


def test_fp16_scores_are_near_those_of_pytorch(half: Export) -> None:
    accuracy = half.report["accuracy"]
    assert isinstance(accuracy, dict)
    assert accuracy["score_difference"] < 0.02
    assert accuracy["pictures"] == 4
    assert accuracy["loss"] <= accuracy["limit"]


# ---- int8 ----


def test_int8_file_convolves_uint8_with_int8_filters(int8: Export) -> None:
    model = int8.model
    made, dtypes = makers(model), dtypes_of(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inner = [node for node in convolutions(model) if not node.input[1].startswith(FLOAT_CONVOLUTIONS)]
    # 20 of the backbone, 3 laterals and 5 outputs of the pyramid, 2 towers of one convolution at five levels
    assert len(inner) == 20 + 8 + 2 * 5
    for node in inner:
        activation, weight = made[node.input[0]], made[node.input[1]]
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert dtypes[activation.input[2]] == "UINT8"
        assert dtypes[weight.input[0]] == "INT8"
        assert shapes[weight.input[1]] == shapes[weight.input[0]][:1]  # a scale for each filter
        assert {user.op_type for user in model.graph.node if node.output[0] in user.input} == {"QuantizeLinear"}


def test_int8_file_keeps_the_last_convolutions_and_what_follows_in_float(int8: Export) -> None:
    model = int8.model
    made, dtypes = makers(model), dtypes_of(model)
    last = [node for node in convolutions(model) if node.input[1].startswith(FLOAT_CONVOLUTIONS)]
    assert len(last) == 2 * 5
    assert {dtypes[node.input[1]] for node in last} == {"FLOAT"}
    assert "DequantizeLinear" not in {made_by(made, node) for node in last}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "TopK", "Sigmoid", "MatMul", "Gemm", "Div", "Sqrt", "InstanceNormalization"):
            assert made_by(made, node) != "DequantizeLinear"
    assert {dtypes[value.name] for value in model.graph.output} == {"FLOAT", "INT32"}


def test_int8_file_adds_the_shortcuts_without_leaving_uint8(int8: Export) -> None:
    model = int8.model
    made = makers(model)
    operands = [
        [made[name].op_type for name in node.input if name in made]
        for node in model.graph.node
        if node.op_type == "Add"
    ]
    assert operands.count(["DequantizeLinear", "DequantizeLinear"]) == 8  # the blocks of a ResNet-18


def test_int8_file_keeps_the_rules_but_for_two_operators(int8: Export) -> None:
    model = int8.model
    assert violations(model, "int8") == ()
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    broken = violations(model)
    assert any("QuantizeLinear" in each for each in broken)
    assert any("is int8" in each for each in broken)


def test_int8_file_keeps_its_description(int8: Export, half: Export) -> None:
    about = open_onnx(int8.path).description
    assert about.precision == "int8"
    other = open_onnx(half.path).description
    assert replace(about, precision="fp16", digest=other.digest) == other
    assert about.digest != other.digest
    assert sorted(entry.name for entry in int8.path.parent.iterdir()) == ["int8.onnx", "int8.parity.json"]
    assert "not for CANN" in int8.said
    assert "from 3 pictures" in int8.said


def test_int8_file_detects(int8: Export) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, H, W), np.uint8)
    found = open_onnx(int8.path, threads=1).run(images, np.array([(H, W)] * 2, np.int32))
    assert found["count"].min() > 0
    assert np.isfinite(found["boxes"]).all()


CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
SATURATES = pytest.mark.skipif("avx2" in CPU and "vnni" not in CPU, reason="sums of int8 saturate without VNNI")


# Of the random weights' backbone: the error of int8 grows from block to block.
@pytest.mark.parametrize(
    ("name", "layers", "most"), [("half", 20, 0.02), pytest.param("int8", 3, 0.1, marks=SATURATES)]
)
def test_tensors_inside_are_those_of_the_float32_program(
    name: str, layers: int, most: float, int8: Export, request: pytest.FixtureRequest
) -> None:
    file: Export = request.getfixturevalue(name)
    batch = next(batches(draw_samples((H, W), 2), (H, W), 2))
    inside = SideBySide(file.model, int8.translation.program, batch.inputs)
    convolved = [each for each in inside.names if inside.weights[each].startswith("backbone.")]
    assert len(convolved) == 20
    assert max(inside.differences(convolved[:layers]).values()) < most


# ---- the gate ----

BOX = (10.0, 10.0, 50.0, 40.0)
ELSEWHERE = (60.0, 10.0, 90.0, 50.0)

SAMPLES = next(batches(draw_samples((H, W), 2), (H, W), 2))
ABOUT = replace(DESCRIPTION, precision="fp16", batch=1)
BATCH = SampleBatch(("picture",), np.zeros((1, 3, H, W), np.uint8), np.array([(H, W)], np.int32), ((2 * H, 2 * W),))


def counted(
    ours: Sequence[Row], theirs: Sequence[Row], truth: Truth | None = None, max_ap_drop: float | None = None
) -> Accuracy:
    """What the gate makes of two sides' detections on one picture of twice the canvas."""
    comparison = Comparison(ABOUT, truth)
    comparison.add(BATCH, detection_arrays(*ours), detection_arrays(*theirs))
    return comparison.outcome(max_ap_drop)


def write_truth(folder: Path, *boxes: tuple[float, float, float, float]) -> Truth:
    """A COCO file that holds boxes of the first class on picture 7; in original pixels, twice those of the canvas."""
    file = folder / "truth.json"
    rows = [
        {"image_id": 7, "category_id": 1, "bbox": [2 * x1, 2 * y1, 2 * (x2 - x1), 2 * (y2 - y1)]}
        for x1, y1, x2, y2 in boxes
    ]
    categories = [{"id": key, "name": str(key)} for key in ABOUT.category_ids]
    file.write_text(json.dumps({"images": [{"id": 7}, {"id": 8}], "annotations": rows, "categories": categories}))
    return Truth(ground_truth(read_coco_file(file), strict=False), (7,))


def test_a_file_that_finds_the_same_loses_nothing() -> None:
    rows: list[Row] = [(0.9, 0, BOX), (0.1, 1, ELSEWHERE)]
    same = counted(rows, rows)
    assert same.pytorch_ap == same.file_ap == pytest.approx(1.0)
    assert (same.loss, same.passed) == (0.0, True)
    assert "PyTorch's detections above 0.3" in str(same)


def test_a_file_that_misplaces_a_box_loses() -> None:
    moved = (10.0, 10.0, 50.0, 46.0)  # IoU 5/6: true at seven of the ten thresholds
    lost = counted([(0.9, 0, moved)], [(0.9, 0, BOX)])
    assert lost.loss == pytest.approx(0.3)
    assert lost.score_difference == 0.0
    assert not lost.passed
    assert counted([(0.9, 0, moved)], [(0.9, 0, BOX)], max_ap_drop=0.31).passed


def test_ap_is_counted_on_true_boxes_in_original_pixels(tmp_path: Path) -> None:
    truth = write_truth(tmp_path, BOX, ELSEWHERE)
    both: list[Row] = [(0.9, 0, BOX), (0.8, 0, ELSEWHERE)]
    same = counted(both, both, truth)
    assert (same.pytorch_ap, same.file_ap, same.passed) == (pytest.approx(1.0), pytest.approx(1.0), True)
    assert "truth.json" in str(same)
    lost = counted(both[:1], both, truth)
    assert lost.loss == pytest.approx(1 - 51 / 101)  # half of the recall levels are reached
    assert not lost.passed
    assert counted(both, both[:1], truth).passed  # a gain


def test_scores_that_shrink_all_alike_fail_though_the_ap_stays(tmp_path: Path) -> None:
    theirs: list[Row] = [(0.9, 0, BOX), (0.8, 0, ELSEWHERE)]
    accuracy = counted([(score / 2, label, box) for score, label, box in theirs], theirs, write_truth(tmp_path, BOX))
    assert accuracy.file_ap == accuracy.pytorch_ap
    assert accuracy.explained() == ["scores of the file is 0.5 of its size away from PyTorch's, at most 0.05"]


@pytest.mark.parametrize(
    ("ours", "theirs", "difference", "passes"),
    [
        ([], [], 0.0, True),
        ([(0.26, 0, BOX)], [(0.27, 0, BOX)], 0.01, True),
        ([(0.2, 0, BOX)], [(0.1, 0, BOX)], 0.1, False),
        ([(0.06, 0, BOX)], [(0.07, 0, BOX)], 0.01, False),  # little, but much of so small a score
    ],
    ids=["nothing found", "near", "far", "far for its size"],
)
def test_without_anything_to_count_scores_are_compared(
    ours: list[Row], theirs: list[Row], difference: float, passes: bool, tmp_path: Path
) -> None:
    untrue = write_truth(tmp_path)
    for truth in (None, untrue):
        accuracy = counted(ours, theirs, truth)
        assert accuracy.file_ap is None
        assert accuracy.loss == pytest.approx(difference, abs=1e-6)
        assert accuracy.passed == passes
        assert "could not be counted" in str(accuracy)


def test_scores_that_are_no_numbers_do_not_pass() -> None:
    comparison = Comparison(replace(ABOUT, outputs="raw"), None)
    for value in (0.5, float("nan"), 0.5):
        comparison.add(BATCH, {"scores_p3": np.full((1, 4), value)}, {"scores_p3": np.full((1, 4), 0.5)})
    assert not comparison.outcome().passed


def test_a_file_that_loses_too_much_is_not_left_behind(
    half: Export, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = "neck.fpn_convs.1.conv.weight"
    broken = damaged(half.translation, weight, slice(None))
    for module in (write_onnx, compare_onnx):
        monkeypatch.setattr(module, "translate", lambda *arguments: broken)
    path = tmp_path / "model.onnx"
    flags = ["--checkpoint", str(checkpoint), "--size", f"{H}x{W}", "--batch", "2", "--output", str(path)]
    assert program.main([*flags, "--precision", "fp16"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("failed: ")
    assert weight in said.splitlines()[1]  # where the graphs part, first
    assert said.endswith(f"\n  {WAYS_OUT['fp16']}\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.parity.json"]
    assert not json.loads(path.with_suffix(".parity.json").read_text())["passed"]


NAN = float("nan")


@pytest.mark.parametrize("name", ["boxes", "scores", "edge_std"])
def test_a_number_that_is_none_fails_in_an_empty_slot_too(name: str) -> None:
    rows: list[Row] = [(0.9, 0, BOX)]
    for slot in (0, 4):
        broken, sound = detection_arrays(*rows), detection_arrays(*rows)
        broken[name][0, slot] = NAN
        for of_file, of_pytorch in ((broken, sound), (broken, broken)):
            comparison = Comparison(ABOUT, None)
            comparison.add(BATCH, of_file, of_pytorch)
            accuracy = comparison.outcome()
            assert not accuracy.passed
            assert any(f"in {name} of the file are NaN" in sentence for sentence in accuracy.explained())


def test_spreads_that_differ_fail_though_the_ap_stays() -> None:
    wide, narrow = detection_arrays((0.9, 0, BOX)), detection_arrays((0.9, 0, BOX))
    wide["edge_std"][0, 0], narrow["edge_std"][0, 0] = 3.0, 2.0
    comparison = Comparison(ABOUT, None)
    comparison.add(BATCH, wide, narrow)
    accuracy = comparison.outcome()
    assert (accuracy.loss, accuracy.passed) == (0.0, False)
    assert "edge_std of the file is 0.5 of its size away" in accuracy.explained()[0]


def test_a_file_that_is_wrong_about_being_complete_fails() -> None:
    comparison = Comparison(ABOUT, None)
    comparison.add(BATCH, detection_arrays((0.9, 0, BOX)), detection_arrays((0.9, 0, BOX), complete=0))
    (said,) = comparison.outcome().explained()
    assert "complete of the file (whether NMS came to its end) is not PyTorch's on 1 of 1 pictures" in said


def test_boxes_of_decoded_outputs_are_compared_and_not_scores_alone() -> None:
    scores = np.full((1, 4, 3), 0.5)
    boxes = np.tile(np.array(BOX), (1, 4, 1))
    for outputs, wrong in (("decoded", {"boxes": boxes + 5.0}), ("decoded", {"scores": scores + 0.05})):
        comparison = Comparison(replace(ABOUT, outputs=outputs), None)
        sound = {"boxes": boxes, "scores": scores}
        comparison.add(BATCH, {**sound, **wrong}, sound)
        accuracy = comparison.outcome()
        assert not accuracy.passed
        assert any(next(iter(wrong)) in sentence for sentence in accuracy.explained())


def test_a_weak_model_that_finds_nothing_any_more_fails(tmp_path: Path) -> None:
    columns = [(float(x), 0.0, x + 8.0, 8.0) for x in range(0, 1000, 10)]  # a hundred true boxes, of which it knows one
    truth = write_truth(tmp_path, *columns)
    for max_ap_drop, share in ((None, LARGEST_LOSS["int8"].share), (0.5, LEFT_OVER)):
        comparison = Comparison(replace(ABOUT, precision="int8"), truth)
        comparison.add(BATCH, detection_arrays(), detection_arrays((0.9, 0, columns[0])))
        accuracy = comparison.outcome(max_ap_drop)
        assert accuracy.pytorch_ap == pytest.approx(2 / 101)
        assert accuracy.limit == pytest.approx(share * accuracy.pytorch_ap)
        assert not accuracy.passed


def test_float16_weights_run_in_pytorch_as_on_an_accelerator_and_name_what_overflows(checkpoint: Path) -> None:
    loaded = load_trained(checkpoint)
    cfg = loaded.run.detector
    graph = graph_of("decoded", (H, W), cfg)
    constants = detector.freeze(loaded.variables, cfg)
    exact = run_pytorch(graph, detector.prepare(loaded.variables, constants), SAMPLES)
    for factor, overflows in ((1.0, False), (5e4, True)):
        tree = detector.prepare(loaded.variables, constants, HALF).tree
        flat = flatten(tree)
        flat["backbone.conv1.weight"].mul_(factor)
        half = HalfRun(Prepared(tree), lambda prepared, batch: run_pytorch(graph, prepared, batch))
        found = half.run(SAMPLES)
        assert half.overflows == overflows
        if overflows:
            assert "backbone.conv1.weight reaches" in str(half.largest)
        else:
            assert 0 < np.abs(found["scores"] - exact["scores"]).max() < 0.02


def test_a_model_beyond_float16_is_refused_though_onnx_runtime_computes_it(
    half: Export, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    large = torch.load(checkpoint, weights_only=True)
    large["variables"]["backbone.conv1.weight"] *= 5e4
    torch.save(large, tmp_path / "large.pt")
    for module in (write_onnx, compare_onnx):
        monkeypatch.setattr(module, "translate", lambda *arguments: half.translation)
    path = tmp_path / "large.onnx"
    path.write_bytes(b"of an earlier export")
    flags = ["--checkpoint", str(tmp_path / "large.pt"), "--size", f"{H}x{W}", "--batch", "2", "--output", str(path)]
    assert program.main([*flags, "--precision", "fp16"]) == 1
    said = capsys.readouterr().err
    assert "backbone.conv1.weight reaches" in said
    assert "float16 holds at most 65504" in said
    assert "is now large.onnx.old" in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["large.onnx.old", "large.parity.json", "large.pt"]


# ---- trained weights on real pictures ----


@pytest.mark.slow  # 87 pictures three times
@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.002), ("int8", 0.01)])
def test_ap_of_the_trained_model_stays(precision: str, most: float, test_data: Path, tmp_path: Path) -> None:
    path, cells = tmp_path / "bccd.onnx", test_data / "bccd"
    truth = ("--annotations", str(cells / "annotations" / "instances_val.json"), "--images", str(cells / "val"))
    settings = ("--size", "256x320", "--samples", 87, "--precision", precision)
    export(*trained_flags(test_data), *settings, *truth, "--output", path)
    accuracy = json.loads(path.with_suffix(".parity.json").read_text())["accuracy"]
    assert accuracy["pictures"] == 87
    assert abs(accuracy["loss"]) < most
    assert evaluate.main(["--onnx", str(path), *truth, "--workers", "0", "--output", str(tmp_path / "ap")]) == 0
    assert json.loads((tmp_path / "ap" / "metrics.json").read_text())["AP"] == pytest.approx(accuracy["file_ap"])
