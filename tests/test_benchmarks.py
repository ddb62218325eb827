"""The benchmarks compare like with like: their plain forms compute what ours do, their parts are the step."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import __main__ as everything
from benchmarks import (
    evaluate,
    graphs,
    infer,
    loader,
    loss,
    measure,
    parts,
    pipeline,
    plain,
    plain_onnx,
    program,
    tables,
    train,
)
from benchmarks.counts import Ops, macs_by_part, ops_by_part
from benchmarks.inputs import random_batch, with_lively_norms, write_pictures
from gfl.data.coco import read_coco
from gfl.data.picture_files import read_picture
from gfl.engine.checkpoints import TrainedModel
from gfl.engine.state import step
from gfl.errors import InputError
from gfl.model import detector, fpn
from gfl.model.assign import ATSSConfig
from gfl.model.backbones import resnet
from gfl.model.detector import DetectorConfig
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.losses import loss_terms
from gfl.runtime.description import INPUT_NAMES, Arrays
from gfl.runtime.model import Model
from gfl.runtime.on_torch.pt_file import describe
from gfl.runtime.providers import ProviderReport
from gfl.settings import OptimConfig, RunConfig
from gfl.tensors.variables import Variables, child, flatten, unflatten
from infer.sources import folder_files

NARROW = DetectorConfig(
    num_classes=5,
    backbone=resnet.ResNetConfig(depth=18, base_width=8),
    neck=FPNConfig(channels=16),
    head=HeadConfig(channels=16, convs=1, gn_groups=4, quality_channels=8),
)


# ---- the plain forms compute what ours do ----


@pytest.mark.parametrize("depth", [18, 50])
def test_unfolded_backbone_equals_the_folded_one(depth: int) -> None:
    cfg = replace(NARROW, backbone=resnet.ResNetConfig(depth=depth, base_width=8))
    variables = with_lively_norms(detector.init(cfg))
    images = torch.randn((2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    folded, unfolded = trainable(variables, cfg), trainable(variables, cfg)
    prepared = detector.prepare(folded, detector.freeze(folded, cfg))
    ours = resnet.apply(child(prepared.tree, "backbone"), images, cfg.backbone)
    theirs = plain.backbone(child(unfolded, "backbone"), images, cfg.backbone)
    for mine, other in zip(ours, theirs, strict=True):
        assert float(mine.detach().std()) > 0.1  # the residual branches are alive
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    torch.autograd.backward([feature.square().mean() for feature in ours])
    torch.autograd.backward([feature.square().mean() for feature in theirs])
    trained = [path for path in flatten(child(variables, "backbone")) if not resnet.is_frozen(path, cfg.backbone)]
    for path in trained:
        gradient, expected = (flatten(tree)[f"backbone.{path}"].grad for tree in (folded, unfolded))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5, msg=path)


def trainable(variables: Variables, cfg: DetectorConfig) -> Variables:
    """A copy whose leaves take gradients where the recipe trains them."""
    copied = {path: leaf.clone() for path, leaf in flatten(variables).items()}
    return unflatten({path: leaf.requires_grad_(not detector.is_frozen(path, cfg)) for path, leaf in copied.items()})


@pytest.fixture
def inference() -> graphs.Case:
    return graphs.make_case(NARROW, (64, 96), batch=2)


def test_plain_graph_equals_the_network_alone(inference: graphs.Case) -> None:
    tree, cfg, images = inference.prepared.tree, inference.cfg, inference.normalised()
    pyramid = fpn.apply(child(tree, "neck"), resnet.apply(child(tree, "backbone"), images, cfg.backbone))
    expected = [
        branch(child(tree, "bbox_head"), convs, last, x, cfg.head)
        for convs, last in (("cls_convs", "gfl_cls"), ("reg_convs", "gfl_reg"))
        for x in pyramid
    ]
    found = graphs.open_plain(inference).run(None, {plain_onnx.INPUT: images.numpy()})
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), other, rtol=0, atol=1e-4)


def branch(variables: Variables, convs: str, last: str, x: Tensor, cfg: HeadConfig) -> Tensor:
    """One branch of the head on one level, as the paper draws it."""
    for i in range(cfg.convs):
        layer = flatten(child(variables, f"{convs}.{i}"))
        x = F.conv2d(x, layer["conv.weight"], padding=1)
        x = F.relu(F.group_norm(x, cfg.gn_groups, layer["gn.weight"], layer["gn.bias"]))
    return F.conv2d(x, **flatten(child(variables, last)), padding=1)


def test_plain_graph_refuses_a_norm_that_does_not_fold() -> None:
    cfg = replace(NARROW, backbone=resnet.ResNetConfig(depth=18, norm="gn"))
    with pytest.raises(ValueError, match="norm='gn'"):
        plain_onnx.plain_graph(detector.Prepared({}), 1, (64, 64), cfg)


def test_every_form_of_inference_finds_the_same(inference: graphs.Case) -> None:
    ours = graphs.open_ours(inference).run(
        None, dict(zip(INPUT_NAMES, (inference.images.numpy(), inference.image_sizes.numpy()), strict=True))
    )
    folded, unfolded = (graphs.predict(inference, folded=folded) for folded in (True, False))
    assert folded.num_detections.min() > 3  # there is something to compare
    for other in (unfolded, [torch.from_numpy(array) for array in ours]):
        for found, expected in zip(other, folded, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_as_many_pairs_pass_as_promised(inference: graphs.Case) -> None:
    cfg = inference.cfg
    scores = detector.forward(inference.prepared, inference.normalised(), cfg).scores[..., : cfg.num_classes]
    assert int((scores > cfg.predict.score_threshold).sum()) == 2 * graphs.PASSING


@pytest.fixture(params=[(1, (64, 64)), (5, (128, 96)), (40, (256, 320)), (9, (32, 512))], ids=lambda param: f"{param}")
def case(request: pytest.FixtureRequest) -> loss.Case:
    """Noise on several canvases, with pictures smaller than their canvas, empty slots and identical boxes."""
    boxes, (height, width) = request.param
    case = loss.make_case(3, boxes, (height, width), NARROW, seed=boxes)
    batch = case.batch._replace(
        image_sizes=torch.tensor([[height, width], [height - 7, width // 2], [height // 2 + 1, width]]).int()
    )
    batch.boxes_xyxy[0, -1] = batch.boxes_xyxy[0, 0]
    batch.box_mask[1, boxes // 2 :] = False
    batch.boxes_xyxy[1, boxes // 2 :] = 0.0
    return case._replace(batch=batch)


def owners(case: loss.Case) -> Tensor:
    """Our assignment as the plain form writes it: (B,A)."""
    assignment = case.assign()
    B, G, _ = assignment.anchors.shape
    found = torch.full((B, case.grid.num_anchors), plain.NOBODY)
    for image in range(B):
        for box in range(G):
            found[image, assignment.anchors[image, box][assignment.positive[image, box]].long()] = box
    return found


def test_dense_assignment_equals_ours(case: loss.Case) -> None:
    owner, counted = case.assign_densely()
    assert torch.equal(owner, owners(case))
    assert torch.equal(counted, case.assign().counted)
    assert (owner != plain.NOBODY).any()


def test_dense_assignment_equals_ours_with_fewer_candidates() -> None:
    case = loss.make_case(2, 12, (128, 160), replace(NARROW, assign=ATSSConfig(topk=4)))
    assert torch.equal(case.assign_densely()[0], owners(case))


def test_dense_losses_equal_ours(case: loss.Case) -> None:
    boxes, labels, cfg = case.batch.boxes_xyxy, case.batch.labels, case.cfg.loss
    ours = loss_terms(case.outputs, case.assign(), case.grid, boxes, labels, cfg)
    dense = plain.loss_terms(case.outputs, *case.assign_densely(), case.grid, boxes, labels, cfg)
    samples, weight = ours.positives.sum(), ours.weight.sum()
    assert torch.equal(ours.positives, dense.positives)
    torch.testing.assert_close(dense.weight.sum(), weight, rtol=1e-6, atol=0)
    for mine, other, divisor in (
        (ours.qfl, dense.qfl, samples),
        (ours.giou, dense.giou, weight),
        (ours.dfl, dense.dfl, weight),
    ):
        torch.testing.assert_close(other.sum() / divisor, mine.sum() / divisor, rtol=1e-6, atol=1e-6)
    for mine, other in zip(
        loss.gradients(case.outputs, lambda: ours), loss.gradients(case.outputs, lambda: dense), strict=True
    ):
        torch.testing.assert_close(other, mine, rtol=1e-5, atol=1e-6)


# ---- the pipeline's subject ----


def test_trained_model_and_its_pictures_are_taken_where_they_are(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pipeline.TEST_DATA, str(test_data))
    subject = pipeline.make_subject(tmp_path, 3)
    assert set(subject.model.names) == {"RBC", "WBC", "Platelets"}
    picture = read_picture(folder_files(subject.pictures).files[0].path)
    assert picture.shape[:2] == pipeline.SIZE_HW
    assert list(tmp_path.iterdir()) == []  # nothing was generated


@pytest.fixture
def silent() -> Model:
    """A model that finds nothing, in no time."""
    canvas = (64, 96)
    trained = TrainedModel({}, RunConfig(detector=NARROW), tuple("abcde"), (1, 2, 3, 4, 5), (canvas,))
    nothing: Arrays = {name: np.zeros((2,), np.int32) for name in ("count", "complete")}
    nothing |= {"scores": np.zeros((2, 100), np.float32), "labels": np.full((2, 100), -1, np.int32)}
    nothing |= {name: np.zeros((2, 100, 4), np.float32) for name in ("boxes", "edge_std")}
    about = describe(trained, size=canvas, batch=2)
    return Model(Path("silent"), about, (canvas,), 2, lambda images, sizes: nothing, lambda: ProviderReport("", {}, ()))


def test_seconds_of_the_pipeline_are_those_of_a_picture(silent: Model, tmp_path: Path) -> None:
    _, folder = write_pictures(tmp_path, 3, (64, 96))
    files = folder_files(folder).files
    runs: list[int] = []

    def run(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        runs.append(len(images))
        time.sleep(0.1)
        return silent.run(images, image_sizes)

    slow = replace(silent, run=run)
    seconds = pipeline.pipeline("slow", slow, files, tmp_path)()["slow"]
    assert runs == [2, 2]
    assert 0.2 / 3 <= seconds < 10.0
    assert (tmp_path / "detections.json").read_text() == "[]\n"


def test_a_picture_that_is_not_read_stops_the_pipeline_benchmark(silent: Model, tmp_path: Path) -> None:
    _, folder = write_pictures(tmp_path, 2, (64, 96))
    files = folder_files(folder).files
    files[1].path.write_bytes(files[1].path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"000001\.jpg.*would count as read"):
        pipeline.pipeline("broken", silent, files, tmp_path)()


# ---- the parts are the step ----


RUN = RunConfig(detector=NARROW, optim=OptimConfig(clip=1.0), batch_size=2)


def test_a_step_in_parts_leaves_the_weights_of_the_step_itself() -> None:
    batch = random_batch(2, 4, (64, 64), NARROW.num_classes)
    whole, split = (parts.make_training(RUN, ((64, 64),)) for _ in range(2))
    before = {path: leaf.clone() for path, leaf in whole.module.leaves().items()}
    step(whole, [batch], parts.RATE, RUN.optim)
    assert tuple(parts.step_parts(split, iter([batch]), RUN)) == parts.PARTS
    for path, leaf in whole.module.leaves().items():
        assert torch.equal(leaf, split.module.leaves()[path]), path
    assert any(not torch.equal(leaf, before[path]) for path, leaf in whole.module.leaves().items())


def test_parts_add_up_to_the_step() -> None:
    batch = random_batch(1, 4, (64, 64), NARROW.num_classes)
    seconds = parts.time_parts(parts.make_training(RUN, ((64, 64),)), iter([batch]), RUN)
    assert seconds[parts.STEP] == pytest.approx(sum(seconds[part] for part in parts.PARTS))
    assert seconds[parts.FORWARD] == pytest.approx(sum(seconds[part] for part in parts.OF_FORWARD))


def test_forward_macs_are_those_of_the_reference() -> None:
    state = parts.make_training(RunConfig(), ((128, 128),))
    batch = random_batch(1, 1, (128, 128), 80)

    def forward() -> Iterator[str]:
        for part in parts.step_parts(state, iter([batch]), RunConfig()):
            yield part
            if part == parts.HEAD:
                return

    with torch.no_grad():
        gmac = {part: 16 * macs / 1e9 for part, macs in macs_by_part(forward()).items()}  # 16 times the area: 512x512
    for part, expected in ((parts.BACKBONE, 21.4), (parts.NECK, 4.2), (parts.HEAD, 27.6)):  # reference.md, Cost
        assert gmac[part] == pytest.approx(expected, abs=0.1)


# ---- counting and timing ----


def test_views_and_allocation_are_no_ops_and_a_host_read_is_none_either() -> None:
    def work() -> Iterator[str]:
        x = torch.ones(4, 4)
        yield "one"
        torch.empty(3)
        y = x.view(16).unsqueeze(0).transpose(0, 1).detach()
        y[2:].chunk(2)
        yield "views"
        bool((y.mul(2).add_(1) > 0).all())
        yield "read"

    assert ops_by_part(work()) == {"one": Ops(1, 0), "views": Ops(0, 0), "read": Ops(4, 1)}


def test_macs_of_a_convolution_and_its_gradients() -> None:
    def work() -> Iterator[str]:
        weight = torch.ones(7, 3, 5, 5, requires_grad=True)
        y = F.conv2d(torch.ones(2, 3, 8, 8), weight)
        yield "forward"
        torch.autograd.backward(y.sum())
        yield "backward"

    macs = 2 * 7 * 4 * 4 * 3 * 5 * 5
    assert macs_by_part(work()) == {"forward": macs, "backward": macs}  # the input takes no gradient


def test_forms_take_turns_and_the_first_round_is_left_out() -> None:
    order: list[str] = []

    def form(label: str) -> measure.Sample:
        order.append(label)
        return {label: float(len(order)), f"{label} half": len(order) / 2}

    timings = measure.interleave([partial(form, "a"), partial(form, "b")], repeats=3)
    assert "".join(order) == "abababab"
    assert timings["a"].seconds == (3.0, 5.0, 7.0)
    assert (timings["b half"].low, timings["b half"].median, timings["b half"].high) == (2.0, 3.0, 4.0)


def test_a_ratio_of_rates_is_taken_round_by_round() -> None:
    ours, other = measure.Timing((1.0, 2.0, 4.0)), measure.Timing((1.0, 3.0, 2.0))
    assert measure.paired_ratio(ours, other) == (1.0, 0.5, 1.5)


# ---- what people see ----


def test_markdown_and_plain_tables_hold_the_same_cells() -> None:
    table = tables.Table("Title", ("", "ms"), (("first", "1.00"), ("second", "12.0")), "A note.")
    assert tables.markdown(table).split("\n") == [
        "### Title",
        "",
        "|        | ms   |",
        "|:-------|-----:|",
        "| first  | 1.00 |",
        "| second | 12.0 |",
        "",
        "A note.",
    ]
    assert tables.plain_text(table).split("\n") == ["Title", "          ms", "first   1.00", "second  12.0", "A note."]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000123, "0.123"), (0.00456, "4.56"), (0.0789, "78.9"), (1.2345, "1,234")]
)
def test_milliseconds_have_three_digits(seconds: float, text: str) -> None:
    assert measure.milliseconds(seconds) == text


@pytest.mark.parametrize("text", ["512", "0x32", "100x128", "axb", "-32x32"])
def test_a_canvas_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        program.canvas(text)


def test_generated_pictures_are_coco_data_of_one_size(tmp_path: Path) -> None:
    data = read_coco(*write_pictures(tmp_path, 5, (64, 96)), keep_empty=False)
    assert {(picture.height, picture.width) for picture in data.pictures} == {(64, 96)}
    assert len(data.pictures) == 5


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call a sample and a small GEMM."""
    monkeypatch.setattr(measure, "LEAST_S", 0.0)
    monkeypatch.setattr(program, "QUICK_GEMM_SIDE", 64)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("benchmark", "flags", "expected"),
    [
        pytest.param(train, ["--config", "small", "--size", "64x64"], 3, id="train"),
        pytest.param(loss, ["--size", "64x64", "--boxes", "2", "3"], 2, id="loss"),
        pytest.param(
            infer, ["--part", "graphs", "--size", "64x96", "--batch", "2"], 1, id="graphs", marks=pytest.mark.slow
        ),
        pytest.param(
            infer, ["--part", "pipeline", "--pictures", "3", "--batch", "2"], 2, id="pipeline", marks=pytest.mark.slow
        ),
        pytest.param(
            loader, ["--pictures", "2", "--short_side", "64", "--long_side", "96", "--workers", "0"], 1, id="loader"
        ),
        pytest.param(evaluate, ["--pictures", "3"], 1, id="evaluate"),
    ],
)
def test_a_benchmark_runs_and_writes_its_files(
    benchmark: everything.Program,
    flags: Sequence[str],
    expected: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(pipeline.TEST_DATA, raising=False)
    files = ["--json", str(tmp_path / "a.json"), "--output", str(tmp_path / "a.md")]
    monkeypatch.setattr(sys, "argv", ["the program", "--quick", "--repeats", "1", *flags, *files])
    assert program.run_program(benchmark.parser(), benchmark.measure) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert {"date", "machine", "versions", "benchmarks"} == found.keys()
    assert found["machine"]["torch_threads"] == torch.get_num_threads()
    page = (tmp_path / "a.md").read_text()
    assert page.count("\n### ") == expected
    assert "--repeats 1" in page  # the command
    assert "--repeats 1" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "flags"), [*everything.RUNS, *everything.QUICK_RUNS])
def test_the_commands_of_make_bench_are_understood(name: str, flags: Sequence[str]) -> None:
    everything.PROGRAMS[name].parser().parse_args(flags)


def test_counting_forms_count_the_same(tmp_path: Path) -> None:
    """On made-up detections of which some are right."""
    truth = tmp_path / "instances.json"
    evaluate.write_truth(truth, 5)
    detections = evaluate.make_detections(truth)
    assert len(detections) == 5 * evaluate.DETECTIONS
    expected = evaluate.example(truth, detections)
    assert 0.1 < expected < 0.9
    for backend in evaluate.BACKENDS:
        assert evaluate.ours(truth, detections, backend) == pytest.approx(expected, abs=1e-9)


def test_one_of_two_paths_is_an_input_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["loader", "--images", str(tmp_path)])
    assert program.run_program(loader.parser(), loader.measure) == 2
    assert "--annotations" in capsys.readouterr().err
