"""The benchmarks run, and compare like with like: plain forms compute what ours do, parts of a step are the step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as everything
from benchmarks import (
    accelerator,
    command_line,
    convolutions,
    evaluate,
    graphs,
    loader,
    loss,
    measure,
    parts,
    pipeline,
    plain,
    plain_onnx,
    tables,
)
from benchmarks.counts import Ops, macs_by_part, ops_by_part
from benchmarks.inputs import random_batch, with_lively_norms
from gfl.engine.state import step
from gfl.model import detector, head
from gfl.model.backbones import resnet
from gfl.model.detector import DetectorConfig
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.losses import loss_terms
from gfl.settings import OptimConfig, RunConfig
from gfl.tensors.variables import child, flatten, map_leaves

NARROW = DetectorConfig(
    num_classes=5,
    backbone=resnet.ResNetConfig(depth=18, base_width=8),
    neck=FPNConfig(channels=16),
    head=HeadConfig(channels=16, convs=1, gn_groups=4, quality_channels=8),
)
RUN = RunConfig(detector=NARROW, optim=OptimConfig(clip=1.0), batch_size=2)


# ---- plain forms compute what ours do ----


@pytest.mark.parametrize("depth", [18, 50])
def test_unfolded_backbone_equals_the_folded_one(depth: int) -> None:
    cfg = replace(NARROW, backbone=resnet.ResNetConfig(depth=depth, base_width=8, frozen_stages=-1))
    variables = with_lively_norms(detector.init(cfg))
    ours, theirs = (map_leaves(lambda leaf: leaf.clone(), variables) for _ in range(2))
    trained = [
        path for path in flatten(variables) if path.startswith("backbone.") and not detector.is_frozen(path, cfg)
    ]
    for tree in (ours, theirs):
        for path in trained:
            flatten(tree)[path].requires_grad_()
    images = torch.randn((2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    prepared = detector.prepare(ours, detector.freeze(ours, cfg))
    folded = resnet.apply(child(prepared.tree, "backbone"), images, cfg.backbone)
    unfolded = plain.backbone(child(theirs, "backbone"), images, cfg.backbone)
    for mine, other in zip(folded, unfolded, strict=True):
        assert float(mine.detach().std()) > 0.1  # the residual branches are alive
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    for features in (folded, unfolded):
        torch.autograd.backward([feature.square().mean() for feature in features])
    for path in trained:
        gradient, expected = (flatten(tree)[path].grad for tree in (ours, theirs))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5, msg=path)


def test_plain_forms_of_inference_compute_what_ours_do() -> None:
    case = graphs.make_case(NARROW, (64, 96), batch=2)
    folded, unfolded = (graphs.predict(case, folded=folded) for folded in (True, False))
    assert folded.num_detections.min() > 3  # there is something to compare
    for found, expected in zip(unfolded, folded, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    outputs = graphs.open_graph(plain_onnx.plain_graph, case).run(None, {plain_onnx.INPUT: case.normalised().numpy()})
    levels = [torch.from_numpy(logits).flatten(2).transpose(1, 2) for logits in outputs]  # 5 of classes, 5 of edges
    edge_logits = torch.cat(levels[5:], dim=1).unflatten(2, (4, -1))  # untrained scales are 1
    quality = head.dgqp(child(case.prepared.tree, "bbox_head.reg_conf"), edge_logits, NARROW.head)
    expected = detector.forward(case.prepared, case.normalised(), case.cfg)
    torch.testing.assert_close(edge_logits, expected.edge_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat(levels[:5], dim=1).sigmoid() * quality, expected.scores, rtol=0, atol=1e-4)


@pytest.fixture(params=[(1, (64, 64)), (5, (128, 96)), (40, (256, 320)), (9, (32, 512))], ids=str)
def case(request: pytest.FixtureRequest) -> loss.Case:
    """Noise on several canvases, with pictures smaller than their canvas, empty slots and identical boxes."""
    boxes, (height, width) = request.param
    case = loss.make_case(3, boxes, (height, width), NARROW, seed=boxes)
    sizes = torch.tensor([[height, width], [height - 7, width // 2], [height // 2 + 1, width]]).int()
    case.batch.boxes_xyxy[0, -1] = case.batch.boxes_xyxy[0, 0]
    case.batch.box_mask[1, boxes // 2 :] = False
    case.batch.boxes_xyxy[1, boxes // 2 :] = 0.0
    return case._replace(batch=case.batch._replace(image_sizes=sizes))


def test_dense_assignment_and_losses_equal_ours(case: loss.Case) -> None:
    assignment, (owner, counted) = case.assign(), case.assign_densely()
    expected = torch.full_like(owner, plain.NOBODY)
    image, box, candidate = torch.nonzero(assignment.positive, as_tuple=True)
    expected[image, assignment.anchors[image, box, candidate].long()] = box
    assert torch.equal(owner, expected)
    assert torch.equal(counted, assignment.counted)
    assert len(box)
    ours = loss_terms(case.outputs, assignment, case.grid, case.batch, case.cfg.loss)
    dense = plain.loss_terms(case.outputs, owner, counted, case.grid, case.batch, cfg=case.cfg.loss)
    assert torch.equal(ours.positives, dense.positives)
    for name in ("weight", "qfl", "giou", "dfl"):
        divisor = ours.positives.sum() if name == "qfl" else ours.weight.sum()
        found, wanted = (getattr(terms, name).sum() / divisor for terms in (dense, ours))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    gradients = (loss.gradients(case.outputs, lambda terms=terms: terms) for terms in (dense, ours))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_forms_of_evaluation_give_the_same_numbers(tmp_path: Path) -> None:
    annotations = tmp_path / "instances.json"
    evaluate.write_annotations(annotations, 5)
    detections = evaluate.make_detections(annotations)
    expected = evaluate.pycocotools_example(annotations, detections.rows())
    assert 0.1 < expected[0] < 0.9
    for backend in evaluate.BACKENDS:
        for given in (detections, detections.rows()):
            assert evaluate.ours(annotations, given, backend) == expected


# ---- parts, counts and times ----


def test_a_step_in_parts_leaves_the_weights_of_the_step_itself() -> None:
    batch = random_batch(2, 4, (64, 64), NARROW.num_classes)
    whole, split = (parts.make_training(RUN, ((64, 64),)) for _ in range(2))
    before = {path: leaf.clone() for path, leaf in whole.module.leaves().items()}
    step(whole, [batch], parts.RATE, RUN.optim)
    assert tuple(parts.step_parts(split, iter([batch]), RUN)) == parts.PARTS
    for path, leaf in whole.module.leaves().items():
        assert torch.equal(leaf, split.module.leaves()[path]), path
    assert any(not torch.equal(leaf, before[path]) for path, leaf in whole.module.leaves().items())


def test_forward_macs_are_those_of_the_authors() -> None:
    state = parts.make_training(RunConfig(), ((128, 128),))

    def forward() -> Iterator[str]:
        for part in parts.step_parts(state, iter([random_batch(1, 1, (128, 128), 80)]), RunConfig()):
            yield part
            if part == parts.HEAD:
                return

    with torch.no_grad():
        gmac = {part: 16 * macs / 1e9 for part, macs in macs_by_part(forward()).items()}  # 16 times the area: 512x512
    expected = {parts.BACKBONE: 21.4, parts.NECK: 4.2, parts.HEAD: 27.6}
    assert {part: gmac[part] for part in expected} == pytest.approx(expected, abs=0.1)


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


def test_forms_take_turns_the_first_round_is_left_out_and_ratios_are_taken_round_by_round() -> None:
    order: list[str] = []

    def form(label: str) -> measure.Sample:
        order.append(label)
        return {label: float(len(order))}

    timings = measure.interleave([partial(form, "a"), partial(form, "b")], repeats=3)
    assert "".join(order) == "abababab"
    assert timings["a"].seconds == (3.0, 5.0, 7.0)
    ours, other = measure.Timing((1.0, 2.0, 4.0)), measure.Timing((1.0, 3.0, 2.0))
    assert measure.paired_ratio(ours, other) == (1.0, 0.5, 1.5)


# ---- what people see ----


def test_markdown_and_plain_tables_hold_the_same_cells() -> None:
    table = tables.Table("Title", ("", "ms"), (("first", "1.00"), ("second", "12.0")), "A note.")
    rows = ["|        | ms   |", "|:-------|-----:|", "| first  | 1.00 |", "| second | 12.0 |"]
    assert tables.markdown(table).split("\n") == ["### Title", "", *rows, "", "A note."]
    assert tables.plain_text(table).split("\n") == ["Title", "          ms", "first   1.00", "second  12.0", "A note."]


SMALL_SIZES = ["--short_side", "64", "--long_side", "96"]


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        pytest.param("step", [], 5, marks=pytest.mark.slow),
        pytest.param("growth", [], 5, marks=pytest.mark.slow),
        pytest.param("train", ["--config", "small", "--size", "64x64"], 3, marks=pytest.mark.slow),
        pytest.param("loss", ["--size", "64x64", "--boxes", "2", "3"], 2),
        pytest.param("canvases", ["--config", "small", "--pictures", "4", *SMALL_SIZES], 1, marks=pytest.mark.slow),
        pytest.param("infer", ["--part", "graphs", "--size", "64x96", "--batch", "2"], 1, marks=pytest.mark.slow),
        pytest.param("infer", ["--part", "pipeline", "--pictures", "3", "--batch", "2"], 2, marks=pytest.mark.slow),
        pytest.param("loader", ["--pictures", "2", "--workers", "0", *SMALL_SIZES], 1),
        pytest.param("evaluate", ["--pictures", "3"], 2),
        pytest.param("family", [], 1, marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_runs_and_writes_its_files(
    name: str,
    flags: Sequence[str],
    expected: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(pipeline.TEST_DATA, raising=False)
    monkeypatch.setattr(measure, "LEAST_S", 0.0)
    monkeypatch.setattr(command_line, "QUICK_GEMM_SIDE", 64)
    files = ["--json", str(tmp_path / "a.json"), "--output", str(tmp_path / "a.md")]
    (tmp_path / "a.md").write_text(f"before\n\n{tables.KEPT}\n\nof another program\n")
    monkeypatch.setattr("sys.argv", ["the program", "--quick", "--repeats", "1", *flags, *files])
    benchmark = everything.PROGRAMS[name]
    assert command_line.run_program(benchmark.parser(), benchmark.measure) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert {"date", "machine", "versions", "benchmarks"} == report.keys()
    assert report["benchmarks"][0]["figures"]
    page = (tmp_path / "a.md").read_text()
    assert page.count("\n### ") == expected
    assert "--repeats 1" in page  # the command
    assert "Before it: other programs used" in page
    assert page.endswith(f"\n\n{tables.KEPT}\n\nof another program\n")
    assert "before\n" not in page
    assert "--repeats 1" in capsys.readouterr().out


def test_accelerator_without_one_ends_with_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["accelerator"])
    assert command_line.run_program(accelerator.parser(), accelerator.measure) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: got a machine without a GPU or an NPU, expected one, ")
    assert said.count("\n") == 1


def test_accelerator_measures_precisions_at_a_tiny_size_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "PRECISIONS", ("fp32", "bf16"))  # a CPU takes its time for float16
    for module in (measure, convolutions):
        monkeypatch.setattr(module, "LEAST_S", 0.0)
    monkeypatch.setattr(accelerator, "read_run", lambda files: SimpleNamespace(run=RUN))
    flags = ["--device", "cpu", "--quick", "--repeats", "1", "--size", "32x32", "--batch", "1"]
    findings = accelerator.measure(accelerator.parser().parse_args(flags))
    step_table, bare_table = findings.tables
    assert [row[0] for row in step_table.rows] == [row[0] for row in bare_table.rows] == ["fp32", "bf16"]
    assert all(float(row[5]) > 0 for row in step_table.rows)  # x its convolutions
    assert findings.figures["fp32"]["peak_bytes"] is None  # type: ignore[index]


def test_form_that_fails_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(setting: object, run: RunConfig) -> accelerator.Measured:
        if run.compile == "reduce-overhead":
            raise RuntimeError("no compiler\nat all")
        return accelerator.Measured(measure.Timing((0.5,)), 2.0, 3 * 2**20)

    monkeypatch.setattr(accelerator, "measure_step", fail)
    setting = accelerator.Setting("r50", RUN, (64, 64), 2, 1, torch.device("cpu"))
    measured = accelerator.measure_all(setting, ["", "reduce-overhead"])
    table = accelerator.step_table(
        setting, measured, dict.fromkeys(("fp32", "o1", "bf16"), accelerator.Alone({}, 0.25, 9))
    )
    assert table.rows[0] == ("fp32", "500", "500 - 500", "4.0", "3", "2.00", "2.0")
    assert table.rows[1] == ("fp32 reduce-overhead", "RuntimeError: no compiler", "", "", "", "", "")


def test_convolutions_of_a_fake_step_are_those_of_the_step() -> None:
    state = parts.make_training(RUN, ((64, 64),))
    batch = random_batch(2, 4, (64, 64), NARROW.num_classes)
    real = convolutions.record(partial(step, state, [batch], parts.RATE, RUN.optim))
    assert convolutions.record_fake(RUN, (64, 64), 2, 4) == real
    assert sum(any(layer.gradients) for layer in real) > 1


@pytest.mark.parametrize(("name", "flags"), [*everything.RUNS, *everything.QUICK_RUNS])
def test_the_commands_of_make_bench_are_understood(name: str, flags: Sequence[str]) -> None:
    everything.PROGRAMS[name].parser().parse_args(flags)


def test_one_of_two_paths_is_an_input_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["loader", "--images", str(tmp_path)])
    assert command_line.run_program(loader.parser(), loader.measure) == 2
    assert "--annotations" in capsys.readouterr().err
