"""COCO's numbers: against pycocotools itself, and on files as people have them."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.evaluate import pycocotools_example
from gfl.data.coco_columns import DetectionColumns
from gfl.data.coco_json import CocoDetection, GroundTruth, ground_truth, read_coco_file
from gfl.errors import InputError
from gfl.report import coco_matching
from gfl.report.coco_eval import SUMMARY_NAMES, Metrics, evaluate_detections, limit_notes
from gfl.report.coco_matching import Curves, Matching

BOXES = [[10.0, 10.0, 20.0, 20.0], [50.0, 40.0, 60.0, 50.0], [5.0, 60.0, 120.0, 110.0]]


TRUTHS = [(7, 3, BOXES[0]), (7, 5, BOXES[1]), (9, 3, BOXES[2]), (9, 5, BOXES[0])]  # image, category, box


def annotations(first_id: int = 1) -> list[dict[str, object]]:
    """With every optional key."""
    return [
        {"id": index, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": 0, "segmentation": []}
        for index, (image, category, box) in enumerate(TRUTHS, first_id)
    ]


def write(path: Path, **changes: object) -> Path:
    """Two pictures, two classes with boxes and one without."""
    content: dict[str, object] = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 200, "width": 200}, {"id": 9, "file_name": "b.jpg"}],
        "annotations": annotations(),
        "categories": [{"id": 5, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 8, "name": "fox"}],
    }
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return path


def found(image_id: int, category_id: int, box: list[float], score: float = 0.9) -> CocoDetection:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def perfect() -> list[CocoDetection]:
    return [found(*row) for row in TRUTHS]


def some() -> list[CocoDetection]:
    """One hit, one loose hit, one miss, one false alarm."""
    return [
        found(7, 3, BOXES[0], 0.8),
        found(7, 5, [52.0, 46.0, 60.0, 50.0], 0.7),
        found(9, 3, [0.0, 0.0, 9.0, 9.0], 0.9),
    ]


@pytest.fixture(params=["pycocotools", "hotcoco"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "hotcoco":
        pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    return str(request.param)


def numbers(metrics: Metrics) -> list[float]:
    return list(metrics.summary().values())


class Real(NamedTuple):
    annotations: Path
    detections: list[Any]
    stats: list[float]  # as recorded
    plain: list[float]  # as pycocotools' demo computes them here
    metrics: dict[str, Metrics]  # by backend


@pytest.fixture(scope="module")
def real(test_data: Path, checkpoint_goldens: Path) -> Real:
    """A trained model's detections on real pictures; evaluated once, it takes a second."""
    annotations = test_data / "bccd" / "annotations" / "instances_val.json"
    detections = json.loads((checkpoint_goldens / "detections.json").read_text(encoding="utf-8"))
    stats = json.loads((checkpoint_goldens / "stats.json").read_text(encoding="utf-8"))
    backends = ["pycocotools", *(["hotcoco"] if find_spec("hotcoco") else [])]
    metrics = {name: evaluate_detections(annotations, detections, backend=name) for name in backends}
    return Real(annotations, detections, stats, pycocotools_example(annotations, detections), metrics)


def test_real_detections_give_what_plain_pycocotools_gives(real: Real, backend: str) -> None:
    metrics = real.metrics[backend]
    assert numbers(metrics) == real.plain
    assert metrics.images == 87
    assert list(metrics.per_class) == ["RBC", "WBC", "Platelets"]
    present = [value for value in metrics.per_class.values() if value is not None]
    assert sum(present) / len(present) == pytest.approx(metrics.AP, abs=1e-12)


def test_real_detections_give_the_recorded_numbers(real: Real, backend: str) -> None:
    # detections.json rounds boxes to 0.001 px and scores to six digits, the numbers were taken before: 7.5e-5 apart.
    assert numbers(real.metrics[backend]) == pytest.approx(real.stats, abs=1e-4, rel=0)


def test_unrounded_real_detections_give_the_recorded_numbers_closely(real: Real) -> None:
    # The unrounded corners are in `segmentation`; the rounded scores leave 1.8e-7.
    corners = [detection["segmentation"][0] for detection in real.detections]
    unrounded: list[Any] = [
        {**detection, "bbox": [c[0], c[1], c[4] - c[0], c[3] - c[1]]}
        for detection, c in zip(real.detections, corners, strict=True)
    ]
    assert numbers(evaluate_detections(real.annotations, unrounded)) == pytest.approx(real.stats, abs=5e-7, rel=0)


def everything(metrics: Metrics) -> dict[str, object]:
    """All that an evaluation says but for the time it took."""
    return {**metrics.as_dict(), "seconds": None}


def test_both_backends_agree_to_the_bit(real: Real) -> None:
    if "hotcoco" not in real.metrics:
        pytest.skip("hotcoco is not installed")
    assert everything(real.metrics["hotcoco"]) == everything(real.metrics["pycocotools"])


def test_a_small_case_gives_what_plain_pycocotools_gives(tmp_path: Path, backend: str) -> None:
    path = write(tmp_path / "a.json")
    metrics = evaluate_detections(path, some(), backend=backend)
    assert numbers(metrics) == pycocotools_example(path, some())


def test_perfect_detections_give_one_and_a_class_without_boxes_none(tmp_path: Path, backend: str) -> None:
    metrics = evaluate_detections(write(tmp_path / "a.json"), perfect(), backend=backend)
    assert pytest.approx((1, 1, 1)) == (metrics.AP, metrics.AP50, metrics.AR100)
    assert metrics.per_class == {"cat": pytest.approx(1), "dog": pytest.approx(1), "fox": None}
    assert list(metrics.per_class) == ["cat", "dog", "fox"]  # by category id, not as the file lists them


def test_no_detections_give_zeros(tmp_path: Path, backend: str) -> None:
    metrics = evaluate_detections(write(tmp_path / "a.json"), [], backend=backend)
    assert numbers(metrics) == [0.0] * 12  # there are small, medium and large boxes to find
    assert metrics.per_class == {"cat": 0.0, "dog": 0.0, "fox": None}


def test_no_ground_truth_gives_minus_ones_and_valid_json(tmp_path: Path, backend: str) -> None:
    metrics = evaluate_detections(write(tmp_path / "a.json", annotations=[]), some(), backend=backend)
    assert numbers(metrics) == [-1.0] * 12
    content = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
    assert list(content) == [*SUMMARY_NAMES, "per_class", "images", "seconds", "max_detections", "best_f1"]
    assert content["per_class"] == {"cat": None, "dog": None, "fox": None}


def test_optional_keys_may_be_missing(tmp_path: Path, backend: str) -> None:
    complete = numbers(evaluate_detections(write(tmp_path / "a.json", info={}), some(), backend=backend))
    needed = [{key: row[key] for key in ("image_id", "category_id", "bbox")} for row in annotations()]
    bare = write(tmp_path / "b.json", annotations=needed)
    assert numbers(evaluate_detections(bare, some(), backend=backend)) == complete


def test_an_annotation_of_id_zero_counts_like_any_other(tmp_path: Path, backend: str) -> None:
    path = write(tmp_path / "a.json", annotations=annotations(first_id=0))
    assert pycocotools_example(path, perfect())[0] < 1  # why the ids are renumbered
    assert pytest.approx(1) == evaluate_detections(path, perfect(), backend=backend).AP


def test_a_crowd_box_swallows_detections_without_counting(tmp_path: Path, backend: str) -> None:
    crowd = {"id": 50, "image_id": 7, "category_id": 3, "bbox": [100, 100, 90, 90], "area": 8100, "iscrowd": 1}
    path = write(tmp_path / "a.json", annotations=[*annotations(), crowd])
    extra = [found(7, 3, [110.0, 110.0, 20.0, 20.0], 0.99), found(7, 3, [140.0, 140.0, 20.0, 20.0], 0.98)]
    assert pytest.approx(1) == evaluate_detections(path, perfect() + extra, backend=backend).AP


def test_image_ids_choose_the_pictures(tmp_path: Path, backend: str) -> None:
    path = write(tmp_path / "a.json")
    first = evaluate_detections(path, some(), image_ids=[7], backend=backend)
    assert first.images == 1
    assert pytest.approx(1) == first.AP50  # the miss and the false alarm are on the other picture
    assert evaluate_detections(path, some(), backend=backend).AP50 < 1


def test_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", categories=[{"id": 3, "name": "x"}, {"id": 5, "name": "x"}, {"id": 8}])
    assert list(evaluate_detections(path, some(), backend="pycocotools").per_class) == ["x (3)", "x (5)", "8"]


def test_nothing_is_printed_and_the_detections_stay_as_they_were(
    tmp_path: Path, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    detections = some()
    evaluate_detections(write(tmp_path / "a.json"), detections, backend=backend)
    assert detections == some()
    assert capfd.readouterr() == ("", "")


def test_auto_takes_pycocotools_where_hotcoco_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfl.report.coco_matching.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # an import of it fails
    path = write(tmp_path / "a.json")
    assert numbers(evaluate_detections(path, some())) == pycocotools_example(path, some())
    with pytest.raises(InputError, match="pip install hotcoco"):
        evaluate_detections(path, some(), backend="hotcoco")


def test_a_broken_hotcoco_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfl.report.coco_matching.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # an import of it fails
    with pytest.raises(InputError, match=r"hotcoco is installed and cannot be imported .*pip uninstall hotcoco"):
        evaluate_detections(write(tmp_path / "a.json"), some())


def crowd_of_boxes(path: Path, count: int) -> tuple[Path, list[CocoDetection]]:
    """A picture with so many boxes, apart from each other, and a perfect detection of each."""
    boxes = [[12.0 * (i % 20), 12.0 * (i // 20), 10.0, 10.0] for i in range(count)]
    rows = [{"id": i, "image_id": 7, "category_id": 3, "bbox": box, "iscrowd": 0} for i, box in enumerate(boxes, 1)]
    return write(path, annotations=rows), [found(7, 3, box, 1 - i / 1000) for i, box in enumerate(boxes)]


def test_more_objects_than_100_count_under_a_higher_limit(tmp_path: Path, backend: str) -> None:
    path, detections = crowd_of_boxes(tmp_path / "a.json", 200)
    limited = evaluate_detections(path, detections, backend=backend)
    assert (limited.AR100, limited.max_detections) == (0.5, 100)
    higher = evaluate_detections(path, detections, backend=backend, max_detections=300)
    assert (higher.AP, higher.AR100, higher.AR10, higher.max_detections) == (1.0, 1.0, 0.05, 300)


@pytest.mark.parametrize("limit", [99, 1000])
def test_another_limit_than_100_gives_the_same_numbers_where_none_binds(real: Real, backend: str, limit: int) -> None:
    few = [row for row in real.detections if row["score"] > 0.3]
    usual = numbers(evaluate_detections(real.annotations, few, backend=backend))
    other = numbers(evaluate_detections(real.annotations, few, backend=backend, max_detections=limit))
    assert other == pytest.approx(usual, abs=1e-12)


def test_a_limit_that_binds_is_told(tmp_path: Path) -> None:
    path, detections = crowd_of_boxes(tmp_path / "a.json", 200)
    truth = ground_truth(read_coco_file(path), strict=True)
    (note,) = limit_notes(truth, detections, 100)
    assert "pictures with more objects (1, at most 200 objects), of them with as many detections (1)" in note
    assert "--max_detections 300" in note
    assert limit_notes(truth, detections, 200) == []


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        (found(1, 3, BOXES[0]), r"1 image id.* \(1\)"),
        (found(7, 0, BOXES[0]), r"1 category id.* \(0\)"),
        (found(7, 3, BOXES[0][:3]), "detection 0 has bbox"),
        (found(7, 3, BOXES[0], float("nan")), "score nan"),
        (found(7, 3, [float("inf"), 0, 1, 1]), "inf"),
        ({"image_id": 7, "category_id": 3, "bbox": BOXES[0]}, "KeyError.*score"),
    ],
)
def test_wrong_detections_are_told(tmp_path: Path, detection: CocoDetection, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_detections(write(tmp_path / "a.json"), [detection])


def test_truth_that_was_read_before_gives_the_same_numbers(real: Real) -> None:
    truth = ground_truth(read_coco_file(real.annotations), strict=True)
    once = real.metrics["pycocotools"]
    for _ in range(2):  # nothing that an evaluation does to its data stays
        again = evaluate_detections(truth, real.detections, backend="pycocotools")
        assert (again.summary(), again.per_class) == (once.summary(), once.per_class)


def test_a_missing_file_unknown_image_ids_and_an_unknown_backend_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such annotation file"):
        evaluate_detections(tmp_path / "none.json", [])
    path = write(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"\[8\]"):
        evaluate_detections(path, [], image_ids=[7, 8])
    with pytest.raises(InputError, match="no picture"):
        evaluate_detections(path, [], image_ids=[])
    with pytest.raises(InputError, match="'quick'"):
        evaluate_detections(path, [], backend="quick")


# ---- the backends against each other ----


def random_case(seed: int) -> tuple[GroundTruth, DetectionColumns, dict[str, Any]]:
    """A few pictures and classes with crowds, ties, empty boxes, exact overlaps and what else rounding may turn on."""
    rng = np.random.default_rng(seed)
    pictures, classes = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    boxes, found = int(rng.integers(0, 12)), int(rng.integers(0, 40))
    largest = [10, 2**53 + 9, 2**63 - 1][seed % 3]
    image_ids = largest - rng.permutation(pictures) * (1 if seed % 2 else 7)
    category_ids = np.sort(rng.choice(np.array([0, 1, 2, 90, 2**62 + 1, 2**62 + 2]), classes, replace=False))
    on_grid = seed % 4 < 2  # whole tens: many overlaps of exactly .5, and sides of 0
    xywh = rng.integers(0, 8, (boxes, 4)) * 10.0 if on_grid else rng.random((boxes, 4)) * 200
    picture, class_ = rng.integers(0, pictures, boxes), rng.integers(0, classes, boxes)
    picture_D, class_D = rng.integers(0, pictures, found), rng.integers(0, classes, found)
    xywh_D = rng.integers(-1, 8, (found, 4)) * 10.0 if on_grid else rng.random((found, 4)) * 200
    if boxes:
        near, of = rng.random(found) < 0.6, rng.integers(0, boxes, found)
        moved = xywh[of] if on_grid else xywh[of] * rng.uniform(0.9, 1.1, (found, 4))
        xywh_D = np.where(near[:, None], moved, xywh_D)
        picture_D, class_D = np.where(near, picture[of], picture_D), np.where(near, class_[of], class_D)
    scores = rng.integers(0, 5, found) / 4 if seed % 5 < 3 else rng.random(found).astype(np.float32)
    truth = GroundTruth(
        path=Path("val.json"),
        image_ids=image_ids,
        class_names=dict.fromkeys(category_ids.tolist(), "same"),
        image_id=image_ids[picture],
        category_id=category_ids[class_],
        boxes_xywh=xywh,
        areas=xywh[:, 2] * xywh[:, 3] * rng.choice([1.0, 0.3, 1e-4], boxes),
        crowd=rng.random(boxes) < 0.2,
    )
    choice: dict[str, Any] = {"max_detections": [100, 1, 2, 300][int(rng.integers(4))]}
    if seed % 7 == 0:
        choice["image_ids"] = image_ids[: max(1, pictures // 2)].tolist()
    columns = DetectionColumns(image_ids[picture_D], category_ids[class_D], xywh_D, scores.astype(np.float64))
    return truth, columns, choice


def in_plain_pycocotools(truth: GroundTruth, rows: list[Any], choice: dict[str, Any]) -> dict[str, Any]:
    """Its precision, recall and scores, used as its own example does: the file's own ids, through loadRes."""
    columns = (truth.image_id, truth.category_id, truth.boxes_xywh, truth.areas, truth.crowd.astype(int))
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    side = COCO()
    side.dataset = {
        "images": [{"id": image_id} for image_id in truth.image_ids.tolist()],
        "categories": [{"id": category_id} for category_id in truth.class_names],
        "annotations": [
            {"id": number, **dict(zip(names, row, strict=True))}
            for number, row in enumerate(zip(*(column.tolist() for column in columns), strict=True), start=1)
        ],
    }
    side.createIndex()
    found = COCO()
    found.dataset = {**side.dataset, "annotations": []}
    found.createIndex()
    evaluation = COCOeval(side, side.loadRes(rows) if rows else found, "bbox")
    if "image_ids" in choice:
        evaluation.params.imgIds = choice["image_ids"]
    limit = choice["max_detections"]
    evaluation.params.maxDets = [min(1, limit), min(10, limit), limit]
    evaluation.evaluate()
    evaluation.accumulate()
    return dict(evaluation.eval)


@pytest.mark.parametrize("seeds", [range(0, 60), range(60, 120)], ids=str)
def test_random_sets_are_counted_to_the_bit_as_plain_pycocotools_does(
    backend: str, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Curves] = []

    def curves(matching: Matching, backend: str) -> Curves:
        kept.append(coco_matching.curves(matching, backend))
        return kept[-1]

    monkeypatch.setattr("gfl.report.coco_eval.curves", curves)
    for seed in seeds:
        truth, columns, choice = random_case(seed)
        evaluate_detections(truth, columns, backend=backend, **choice)
        expected = in_plain_pycocotools(truth, columns.rows(), choice)
        for name, array in kept[-1]._asdict().items():
            assert array.shape == expected[name].shape
            assert array.tobytes() == expected[name].tobytes(), (seed, name)


def test_random_sets_have_the_same_metrics_by_either_backend() -> None:
    pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    for seed in range(200, 240):
        truth, columns, choice = random_case(seed)
        ours, reference = (
            evaluate_detections(truth, given, backend=backend, **choice)
            for given, backend in ((columns, "hotcoco"), (columns.rows(), "pycocotools"))
        )
        assert everything(ours) == everything(reference)


@pytest.mark.parametrize("name", ["bccd", "coco_tiny"])
def test_moved_true_boxes_of_real_files_are_counted_the_same_to_the_bit(name: str, test_data: Path) -> None:
    pytest.importorskip("hotcoco", reason="hotcoco is not installed")
    (path,) = sorted((test_data / name / "annotations").glob("instances_val*.json"))
    truth = ground_truth(read_coco_file(path), strict=False)
    rng = np.random.default_rng(0)
    copies = np.repeat(np.arange(len(truth.image_id)), 3)
    columns = DetectionColumns(
        truth.image_id[copies],
        np.where(rng.random(len(copies)) < 0.8, truth.category_id[copies], min(truth.class_names)),
        truth.boxes_xywh[copies] * rng.uniform(0.8, 1.2, (len(copies), 4)),
        rng.integers(0, 50, len(copies)) / 50,
    )
    ours, reference = (evaluate_detections(truth, columns, backend=each) for each in ("hotcoco", "pycocotools"))
    assert 0.05 < ours.AP < 0.95
    assert everything(ours) == everything(reference)


def test_ids_beyond_what_a_float_holds_stay_apart(tmp_path: Path, backend: str) -> None:
    large = 2**53
    images = [{"id": large + offset, "file_name": f"{offset}.jpg", "height": 200, "width": 200} for offset in range(3)]
    rows = [{"image_id": large + offset, "category_id": 3, "bbox": BOXES[0]} for offset in range(3)]
    path = write(tmp_path / "a.json", images=images, annotations=rows)
    on_one = [found(large + 1, 3, BOXES[0])]
    assert pytest.approx(1 / 3) == evaluate_detections(path, on_one, backend=backend).AR100
    assert evaluate_detections(path, on_one, backend=backend, image_ids=[large + 1]).AR100 == 1
    with pytest.raises(InputError, match=rf"1 image id.* \({large + 3}\)"):
        evaluate_detections(path, [found(large + 3, 3, BOXES[0])], backend=backend)


def test_true_boxes_of_pictures_that_the_file_does_not_list_are_left_out(tmp_path: Path, backend: str) -> None:
    stray = [{"image_id": 8, "category_id": 3, "bbox": BOXES[0]}, {"image_id": 7, "category_id": 4, "bbox": BOXES[0]}]
    path = write(tmp_path / "a.json", annotations=[*annotations(), *stray])
    assert evaluate_detections(path, perfect(), backend=backend).AR100 == 1
