"""`python -m gfl.evaluate`: the AP of the run from its file alone, results in the data set's own terms."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import run_training

from gfl import evaluate
from gfl.data.coco import read_coco
from gfl.data.coco_columns import DetectionColumns
from gfl.engine.checkpoints import load_trained
from gfl.engine.weights import read_checkpoint
from gfl.model import detector
from gfl.model.anchors import make_grid
from gfl.model.structures import Detections
from gfl.report.coco_eval import evaluate_detections
from gfl.runtime.on_torch.dataset import batch_detections
from gfl.runtime.on_torch.pt_file import predictor
from gfl.tensors.variables import flatten

ROUNDING = 1e-4  # of boxes in px and of scores: weights from a file lie in memory in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("evaluate") / "data")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to find something."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    return run_training(data, folder, "EPOCHS = 3", "EVAL_EVERY = 3", "EMA = 0.5", tiny.SEES_EVERYTHING)


def arguments(checkpoint: Path, data: Path, *more: str) -> list[str]:
    """Evaluate on the validation pictures, in batches as large as the run's."""
    files = ["--annotations", str(tiny.annotations(data, "val")), "--images", str(data / "val2017")]
    batches = ["--batch", str(tiny.BATCH), "--workers", "0", "--device", "cpu", "--no-report"]
    return ["--checkpoint", str(checkpoint), *files, *batches, *more]


def results_of(folder: Path) -> tuple[dict[str, object], list[dict[str, object]]]:
    """What is in metrics.json but for the time it took, and in val_detections.json."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key != "seconds"}, json.loads(
        (folder / "val_detections.json").read_text()
    )


def assert_same_results(one: Path, other: Path) -> None:
    (metrics, found), (expected_metrics, expected) = results_of(one), results_of(other)
    assert expected
    assert [each["image_id"] for each in found] == [each["image_id"] for each in expected]
    for key in ("bbox", "score"):
        np.testing.assert_allclose([each[key] for each in found], [each[key] for each in expected], atol=ROUNDING)
    assert metrics == expected_metrics


# ---- the program ----


def test_last_checkpoint_gives_the_numbers_of_the_runs_last_evaluation(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    assert evaluate.main(arguments(trained / "last.pt", data, "--output", str(tmp_path / "deep" / "er"))) == 0
    assert_same_results(tmp_path / "deep" / "er", trained)
    left = {path.name for path in (tmp_path / "deep" / "er").iterdir()}
    assert left == {"metrics.json", "val_detections.json", "evaluation.json"}


def test_results_go_beside_the_checkpoint_and_are_told(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained / "last.pt", tmp_path / "model.pt")
    assert evaluate.main(arguments(tmp_path / "model.pt", data)) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "evaluation_model_pt" / "metrics.json") in said
    assert "IoU .50" in said
    assert "3 images, their detections counted in " in said
    assert_same_results(tmp_path / "evaluation_model_pt", trained)


def test_plain_weights_need_the_settings_and_give_the_same(trained: Path, data: Path, tmp_path: Path) -> None:
    state = read_checkpoint(trained / "last.pt").state
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "model.pth")
    settings = ["--gin_file", tiny.GIN_FILE, "--gin_bindings", *tiny.BINDINGS, tiny.SEES_EVERYTHING]
    assert evaluate.main(arguments(tmp_path / "model.pth", data, "--output", str(tmp_path), *settings)) == 0
    assert_same_results(tmp_path, trained)


def test_bindings_change_what_the_checkpoint_says(trained: Path, data: Path, tmp_path: Path) -> None:
    changes = ["--gin_bindings", "postprocess.PredictConfig.max_detections = 7", "CANVASES = 'own'"]
    assert evaluate.main(arguments(trained / "last.pt", data, "--output", str(tmp_path), *changes)) == 0
    found = Counter(each["image_id"] for each in results_of(tmp_path)[1])
    assert max(found.values()) == 7 < max(Counter(each["image_id"] for each in results_of(trained)[1]).values())


def test_bindings_that_change_no_size_keep_the_runs_canvases(trained: Path, data: Path, tmp_path: Path) -> None:
    """GroupNorm sees the padding: other canvases would change the scores."""
    model = load_trained(trained / "last.pt")
    changes = "postprocess.PredictConfig.nms_iou = 0.5"
    assert load_trained(trained / "last.pt", bindings=[changes]).canvases == model.canvases is not None
    assert load_trained(trained / "last.pt", bindings=["SHORT_SIDE = 80"]).canvases is None
    files = []
    for name in ("plain", "bound"):
        extra = ["--gin_bindings", tiny.SEES_EVERYTHING] if name == "bound" else []
        assert evaluate.main(arguments(trained / "last.pt", data, "--output", str(tmp_path / name), *extra)) == 0
        files.append((tmp_path / name / "val_detections.json").read_text())
    assert files[0] == files[1]


@pytest.mark.parametrize("batch", [1, 3])
def test_detections_do_not_depend_on_the_batch(trained: Path, data: Path, tmp_path: Path, batch: int) -> None:
    assert evaluate.main(arguments(trained / "last.pt", data, "--batch", str(batch), "--output", str(tmp_path))) == 0
    assert_same_results(tmp_path, trained)


def test_picture_that_cannot_be_read_counts_as_without_detections(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    missing, cut = sorted((copy / "val2017").iterdir())[:2]
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:500])
    assert evaluate.main(arguments(trained / "last.pt", copy, "--output", str(tmp_path))) == 0
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("without detections:")] == said.splitlines()
    assert missing.name in said
    assert f"truncated file {cut}" in said
    metrics, found = results_of(tmp_path)
    assert metrics["images"] == tiny.VAL_PICTURES
    assert {each["image_id"] for each in found} == {3}


def test_an_ap_near_nothing_asks_whether_pictures_and_annotations_belong_together(data: Path) -> None:
    val = read_coco(tiny.annotations(data, "val"), data / "val2017", keep_empty=True)
    truth = val.truth
    right = DetectionColumns(truth.image_id, truth.category_id, truth.boxes_xywh, np.ones(len(truth.areas)))
    for boxes, doubtful in ((truth.boxes_xywh, False), (truth.boxes_xywh + 500, True)):
        found = right._replace(boxes_xywh=boxes)
        notes = list(evaluate.doubts(evaluate_detections(truth, found), val, found))
        assert [note.startswith("the AP is near 0, though there are ") for note in notes] == [True] * doubtful
    nothing = DetectionColumns(*(column[:0] for column in right[:4]))
    assert not list(evaluate.doubts(evaluate_detections(truth, nothing), val, nothing))


def test_output_that_cannot_be_made_is_told_before_the_work(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        said = tiny.refusal(
            evaluate.main, arguments(trained / "last.pt", data, "--output", str(tmp_path / name)), capsys
        )
        assert f"cannot write {tmp_path / name}" in said


def test_a_higher_limit_on_detections_is_the_models_too(trained: Path, data: Path, tmp_path: Path) -> None:
    everything = [
        "--gin_bindings",
        "PredictConfig.score_threshold = 0.0",
        "PredictConfig.nms_iou = 1.0",
        "--max_detections",
        "150",
    ]
    assert evaluate.main(arguments(trained / "last.pt", data, "--output", str(tmp_path / "out"), *everything)) == 0
    metrics, results = results_of(tmp_path / "out")
    assert metrics["max_detections"] == 150
    assert max(Counter(row["image_id"] for row in results).values()) > 100
    assert evaluate.main(arguments(trained / "last.pt", data, "--max_detections", "0")) == 2
    assert evaluate.main(arguments(trained / "last.pt", data, "--max_detections", "100001")) == 2


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for flag in (
        "checkpoint",
        "onnx",
        "annotations",
        "images",
        "output",
        "gin_file",
        "gin_bindings",
        "batch",
        "workers",
    ):
        assert f"--{flag}" in said


# ---- the parts ----


def test_results_are_in_original_pixels_and_category_ids_without_blanks_and_background() -> None:
    boxes = torch.tensor([[[10.0, 20.0, 30.0, 60.0]] * 3] * 2)
    labels = torch.tensor([[1, 2, -1], [0, 0, 0]], dtype=torch.int32)  # 2 is the background of two classes
    scores = torch.tensor([[0.75, 0.5, 0.0]] * 2)
    count = torch.tensor([3, 3], dtype=torch.int32)
    spread = torch.tensor([[[2.0, 2.0, 4.0, 4.0]] * 3] * 2)
    found = Detections(boxes, scores, labels, count, spread, torch.ones_like(count))
    scales = np.array([[2.0, 0.5], [1.0, 1.0]], np.float32)  # height, then width
    assert batch_detections(found, [44, -1], scales, [3, 8]).rows() == [
        {"image_id": 44, "category_id": 8, "bbox": [20.0, 10.0, 40.0, 20.0], "score": 0.75}
        | {"edge_std": [4.0, 1.0, 8.0, 2.0]}
    ]


def test_predictor_gives_what_the_pure_functions_give() -> None:
    cfg = tiny.detector_config("frozen_bn")
    variables, batch = detector.init(cfg), tiny.make_batch()
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    expected = detector.predict(prepared, batch.images, batch.image_sizes, make_grid(tiny.CANVAS), cfg)
    found = predictor(variables, cfg, torch.device("cpu"))(batch.images, batch.image_sizes)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_predictor_keeps_the_weights_it_was_made_with() -> None:
    """An evaluation in the middle of a run must neither see nor do anything to training."""
    cfg = tiny.detector_config()
    variables, batch = detector.init(cfg), tiny.make_batch()
    predict = predictor(variables, cfg, torch.device("cpu"))
    before = predict(batch.images, batch.image_sizes)
    assert not any(leaf.is_inference() for leaf in flatten(variables).values())
    assert all(
        torch.equal(one, other) for one, other in zip(predict(batch.images, batch.image_sizes), before, strict=True)
    )


# ---- classes by name ----


def renamed(data: Path, folder: Path, change: Callable[[list[dict[str, object]]], None]) -> Path:
    """A copy of a data set whose validation categories `change` has changed; their boxes keep their classes."""
    shutil.copytree(data, folder)

    def rewrite(content: dict[str, list[dict[str, object]]]) -> None:
        change(content["categories"])
        tiny.turn_ids(content)

    tiny.change_annotations(folder, rewrite, "val")
    return folder


def test_classes_are_mapped_by_name_whatever_order_and_ids(trained: Path, data: Path, tmp_path: Path) -> None:
    other = renamed(data, tmp_path / "data", lambda categories: None)
    assert evaluate.main(arguments(trained / "last.pt", other, "--output", str(tmp_path))) == 0
    (metrics, found), (expected_metrics, expected) = results_of(tmp_path), results_of(trained)
    assert metrics["per_class"] == expected_metrics["per_class"]
    assert metrics["AP"] == pytest.approx(expected_metrics["AP"], abs=1e-12)
    assert [each["category_id"] for each in found] == [100 - int(str(each["category_id"])) for each in expected]


def test_class_of_the_file_that_the_model_lacks_needs_a_map(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(categories: list[dict[str, object]]) -> None:
        categories[0]["name"] = "circular"

    other = renamed(data, tmp_path / "data", rename)
    flags = arguments(trained / "last.pt", other, "--output", str(tmp_path))
    said = tiny.refusal(evaluate.main, flags, capsys)
    assert "has circular, which the model does not know" in said
    assert "--class_map 'circle=circular'" in said
    assert evaluate.main([*flags, "--class_map", "circle=circular"]) == 0
    aps = [results_of(folder)[0]["per_class"] for folder in (tmp_path, trained)]
    assert [list(each.values()) for each in aps[:1]] == [list(each.values()) for each in aps[1:]]


def test_class_of_the_model_that_the_file_lacks_is_left_out_and_told(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = arguments(trained / "last.pt", data, "--output", str(tmp_path))

    def keep_two(content: dict[str, list[dict[str, object]]]) -> None:
        content["categories"] = content["categories"][:2]
        content["annotations"] = [row for row in content["annotations"] if row["category_id"] in (1, 2)]

    shutil.copytree(data, tmp_path / "data")
    tiny.change_annotations(tmp_path / "data", keep_two, "val")
    assert evaluate.main(arguments(trained / "last.pt", tmp_path / "data", "--output", str(tmp_path))) == 0
    assert "note: 3 of the model's 5 classes are not counted" in capsys.readouterr().out
    assert {each["category_id"] for each in results_of(tmp_path)[1]} <= {1, 2}
    said = tiny.refusal(evaluate.main, [*flags, "--class_map", "circle="], capsys)
    assert "has circle, for which --class_map leaves no class of the model" in said


def test_plain_weights_take_the_order_of_the_file_on_trust(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": read_checkpoint(trained / "last.pt").state, "meta": {}}, tmp_path / "model.pth")
    settings = ["--gin_file", tiny.GIN_FILE, "--gin_bindings", *tiny.BINDINGS]
    assert evaluate.main(arguments(tmp_path / "model.pth", data, "--output", str(tmp_path), *settings)) == 0
    assert "model.pth does not name its classes" in capsys.readouterr().out


def test_an_evaluation_that_fails_leaves_no_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("new", "mine"):
        with contextlib.suppress(KeyboardInterrupt), evaluate.folder_for_results(tmp_path / name):
            assert (tmp_path / name).is_dir()
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
