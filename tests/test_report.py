"""Reports: what stands on their pages, what they leave in a folder, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from gfl import train
from gfl.data.coco import CocoData, read_coco
from gfl.errors import InputError
from gfl.evaluate import main as evaluate
from gfl.record import drawing as drawing_module
from gfl.record import run_report
from gfl.record.drawing import Drawing
from gfl.record.run_data import Splits, read_log
from gfl.record.run_report import compare_folders
from gfl.report import analysis as analysis_module
from gfl.report import figures
from gfl.report.__main__ import main
from gfl.report.analysis import Analysis, analyse
from gfl.report.compare_page import Compared, changes, compare_page, difference_sentence, f1
from gfl.report.csv_tables import class_table, error_table
from gfl.report.gallery import found_picture
from gfl.report.kinds import CLASS
from gfl.report.sentences import calibration_sentence, cost_sentence, exactness_sentence, found_sentence, hints, summary
from gfl.settings import DataConfig
from tests.support import tiny
from tests.support.made_once import made_once

NAMES = ("cat", "<script>dog & $x$", "fox")
BOXES = [[5, 5, 20, 20], [40, 10, 20, 30], [10, 35, 25, 20]]
EDGE_STD = [1.0, 2.0, 1.5, 3.0]


def write_data(folder: Path, pictures: int = 6) -> Path:
    """Pictures of 64x80 px with three boxes each, of two classes; the third class has none."""
    (folder / "pictures").mkdir(parents=True)
    rng = np.random.default_rng(0)
    annotations = []
    for image_id in range(1, pictures + 1):
        cv2.imwrite(str(folder / f"pictures/{image_id}.jpg"), rng.integers(0, 255, (64, 80, 3), np.uint8))
        for number, box in enumerate(BOXES):
            row = {"id": 10 * image_id + number, "image_id": image_id, "category_id": 1 + number % 2, "bbox": box}
            annotations.append({**row, "area": box[2] * box[3], "iscrowd": 0})
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 80} for i in range(1, pictures + 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def results(data: CocoData, *, spread: bool = True, shift: float = 2.0) -> list[dict[str, object]]:
    """Every box found `shift` px to the right, and on each picture one box of the wrong class and one of nothing."""
    found: list[dict[str, object]] = []
    for picture in data.pictures:
        for box, score in zip(BOXES, (0.9, 0.8, 0.7), strict=True):
            row = {"image_id": picture.id, "category_id": 1 + BOXES.index(box) % 2, "score": score}
            found.append({**row, "bbox": [box[0] + shift, *box[1:]]})
        found.append({"image_id": picture.id, "category_id": 2, "bbox": BOXES[0], "score": 0.92})
        found.append({"image_id": picture.id, "category_id": 1, "bbox": [60, 50, 12, 12], "score": 0.95})
    return [{**row, "edge_std": EDGE_STD} for row in found] if spread else found


@pytest.fixture
def data(tmp_path: Path) -> CocoData:
    folder = write_data(tmp_path / "data")
    return read_coco(folder / "val.json", folder / "pictures", keep_empty=True)


@pytest.fixture
def analysed(data: CocoData) -> Analysis:
    return analyse(data.truth, results(data))  # type: ignore[arg-type]


def report_arguments(data: CocoData, tmp_path: Path, found: object) -> list[str]:
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found))
    return ["--annotations", str(data.annotations), "--images", str(data.images), "--results", str(file)]


# ---- the page ----


def test_the_page_of_a_results_file_is_one_file_that_fetches_nothing(data: CocoData, tmp_path: Path) -> None:
    assert main(report_arguments(data, tmp_path, results(data))) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", page) == []
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "&lt;script&gt;dog &amp; $x$" in page
    assert page.count("<script>") == 1  # the page's own
    assert page.count('class="lead"') == 3


def test_results_without_the_spread_of_the_edges_have_a_page_too(data: CocoData, tmp_path: Path) -> None:
    assert main(report_arguments(data, tmp_path, results(data, spread=False))) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "How sure it is of an edge" not in page
    assert "the hardest" in page


def test_the_numbers_of_an_analysis_fit_each_other(analysed: Analysis) -> None:
    assert (analysed.objects, analysed.right, analysed.counted) == (18, 12, len(analysed.shown.scores))
    assert [row.objects for row in analysed.classes] == [12, 6, 0]
    assert sum(row.shown for row in analysed.classes) == len(analysed.shown.scores)
    assert analysed.breakdown is not None
    # The first box is found as a dog with a higher score: that is what is shown, in all tables alike.
    assert analysed.breakdown.confusion[:2, :2].tolist() == [[6, 6], [0, 6]]
    assert sum(each.count(CLASS) for each in analysed.judged) == 6
    assert analysed.edges is not None
    assert analysed.edges.error_by_side_px == pytest.approx((2, 0, 2, 0))  # shifted by 2 px to the right


def test_the_sentences_say_what_the_numbers_do(analysed: Analysis) -> None:
    assert found_sentence(analysed).startswith("Of 18 objects on 6 pictures the detector finds 12 (67%)")
    assert "lie 1.0 px from the true ones on average" in exactness_sentence(analysed)
    assert any("without an object here, not measured: fox" in each for each in hints(analysed))
    assert len(summary(analysed)) == 3


@pytest.mark.parametrize("kept", [slice(0, 0), slice(3, None, 5)], ids=["nothing found", "wrong classes alone"])
def test_the_sentences_hold_where_nothing_is_right(data: CocoData, kept: slice, tmp_path: Path) -> None:
    found = results(data)[kept]
    assert main(report_arguments(data, tmp_path, found)) == 0
    said = summary(analyse(data.truth, found))  # type: ignore[arg-type]
    assert "nan" not in " ".join(said)


def test_the_sentences_hold_without_objects_and_without_hotcoco(
    data: CocoData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(analysis_module, "choose_backend", lambda backend: "pycocotools")
    assert "hotcoco is not installed" in cost_sentence(analyse(data.truth, results(data)))  # type: ignore[arg-type]
    content = json.loads(data.annotations.read_text())
    data.annotations.write_text(json.dumps({**content, "annotations": []}))
    empty = read_coco(data.annotations, data.images, keep_empty=True)
    assert "no object to find on the 6 pictures" in found_sentence(analyse(empty.truth, results(data)))  # type: ignore[arg-type]
    assert main(report_arguments(empty, tmp_path, results(data))) == 0


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (1.0, -3.0)], ids=["percent", "logits"])
def test_scores_of_other_scales_have_a_page_without_calibration(
    data: CocoData, tmp_path: Path, scale: float, shift: float
) -> None:
    found = [{**row, "score": scale * row["score"] + shift} for row in results(data)]  # type: ignore[operator]
    assert main(report_arguments(data, tmp_path, found)) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The scores do not lie between 0 and 1" in page


def test_the_sentences_are_right_for_none_and_one(data: CocoData) -> None:
    found = results(data)
    nothing = analyse(data.truth, [])
    assert cost_sentence(nothing) == "So all objects are missed, and there is no other error to count."
    assert exactness_sentence(nothing) == "No box is right, so how exact the boxes are cannot be told."
    one = analyse(data.truth, found[:1])  # type: ignore[arg-type]
    assert "and the one box that it shows is right" in found_sentence(one)
    assert one.breakdown is not None
    assert calibration_sentence(one.breakdown).startswith("The detection with the highest score (0.90) is right.")
    wrong = analyse(data.truth, found[4::5])  # type: ignore[arg-type]
    assert "of the 6 boxes that it shows none are right" in found_sentence(wrong)
    assert "Mending no single kind of error alone" in cost_sentence(wrong)


def test_classes_of_equal_ap_are_not_called_best_and_hardest(data: CocoData) -> None:
    perfect = [{**row, "bbox": box} for row, box in zip(results(data, shift=0)[:3], BOXES, strict=True)]
    found = [{**row, "image_id": picture.id} for picture in data.pictures for row in perfect]
    said = exactness_sentence(analyse(data.truth, [{**row, "edge_std": None} for row in found]))  # type: ignore[misc]
    assert said == "How exact the boxes are is told by AP75: 100.0."


def test_some_detections_without_the_spread_of_their_edges_are_counted(data: CocoData, tmp_path: Path) -> None:
    found = results(data)
    del found[3]["edge_std"]
    assert main(report_arguments(data, tmp_path, found)) == 0
    assert "29 of 30 detections have an edge_std" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_pictures_that_cannot_be_read_are_counted_and_left_out(data: CocoData, tmp_path: Path) -> None:
    for picture in data.pictures[:5]:
        picture.path.write_bytes(b"no picture")
    assert main(report_arguments(data, tmp_path, results(data))) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"Left out: \d+ examples whose pictures could not be read", page)


# ---- folders ----


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that it leaves, and its data."""

    def make(folder: Path) -> None:
        data = tiny.write_data(folder / "data")
        settings = ("REPORT = True", tiny.SEES_EVERYTHING, "EPOCHS = 2")
        run = tiny.run_training(data, folder / "run", *settings)
        (run / "config.gin").write_text(
            re.sub("DATA_ROOT = .*", "DATA_ROOT = 'data'", (run / "config.gin").read_text())
        )

    return made_once(tmp_path_factory, "run_with_report", make)


LEFT = {
    *("results.png", "labels.png", "pr_curve.png", "confusion.png", "per_class.csv", "report.html"),
    *("train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg", "val_0.jpg"),
}


def copied(run: Path, tmp_path: Path) -> Path:
    """A copy that may be changed, with its data, beside which it says to have been started."""
    shutil.copytree(run, tmp_path / "copy")
    environment = tmp_path / "copy/run/env.json"
    environment.write_text(json.dumps({**json.loads(environment.read_text()), "folder": str(tmp_path / "copy")}))
    return tmp_path / "copy/run"


def test_a_run_leaves_pictures_tables_and_a_page(run: Path) -> None:
    left = {path.name for path in (run / "run").iterdir()}
    assert left >= LEFT
    for name in LEFT:
        if name.endswith(("png", "jpg")):
            picture = cv2.imread(str(run / "run" / name))
            assert picture is not None
            assert picture.std() > 5
    rows = list(csv.DictReader((run / "run/per_class.csv").read_text().splitlines()))
    metrics = json.loads((run / "run/metrics.json").read_text())
    assert {row["class"]: float(row["AP"]) for row in rows} == pytest.approx(metrics["per_class"], abs=1e-5)


def test_the_report_of_a_run_is_made_again(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path)
    for name in LEFT:
        (folder / name).unlink()
    environment = json.loads((folder / "env.json").read_text())
    again = [{"step": 4, "started": "2026-11-20T10:00:00+0000"}, {"step": 1006, "device": "cpu, 1 thread"}]
    (folder / "env.json").write_text(json.dumps({**environment, "resumed": again}))
    assert main([str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} >= LEFT
    page = (folder / "report.html").read_text(encoding="utf-8")
    for heading in ("The run", "Classes", "Errors", "How to go on", "The data", "Where it ran"):
        assert f"<h2>{heading}" in page
    assert "python -m gfl.train --resume" in page
    assert "2 times: at step 4 (2026-11-20T10:00:00+0000), at step 1,006 (time unknown)" in page


def test_a_run_without_evaluation_has_a_page_of_its_training(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path)
    (folder / "val_detections.json").unlink()
    assert main([str(folder)]) == 0
    assert "This run has no evaluation" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_drawn_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(figures, "labels_figure", fail)
    data = tiny.write_data(tmp_path / "data")
    tiny.run_training(data, tmp_path / "run", "REPORT = True", "MAX_STEPS = 1")
    assert (tmp_path / "run/best.pt").is_file()
    again = f"`python -m gfl.report {tmp_path / 'run'}` tries it again"
    assert f"note: the report could not be made (no ink); {again}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("during", "number"), [("report_run", signal.SIGINT), ("report_run", signal.SIGTERM), ("validate", signal.SIGTERM)]
)
def test_a_signal_at_the_report_of_a_run_stops_the_report_alone(
    during: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = getattr(train, during)

    def interrupt(*given: object) -> None:
        if during == "validate":
            usual(*given)
        os.kill(os.getpid(), number)
        if during == "report_run":
            pytest.fail("the report is drawn after all")

    monkeypatch.setattr(train, during, interrupt)
    data = tiny.write_data(tmp_path / "data")
    tiny.run_training(data, tmp_path / "run", "REPORT = True", "MAX_STEPS = 1")
    said = capsys.readouterr().out
    assert "note: the report was stopped; `python -m gfl.report" in said
    assert "  evaluate  python -m gfl.evaluate" in said


def test_pictures_of_a_run_that_ended_early_are_cleared_away(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("env.json", "labels.png", "train_batch0.jpg", "results.png"):
        (folder / name).write_text("{}")
    assert train.main(tiny.train_arguments(data, folder, "MAX_STEPS = 1")) == 0
    assert not (folder / "labels.png").exists()


def test_an_evaluation_leaves_a_page_that_can_be_made_again(run: Path, tmp_path: Path) -> None:
    file, images = tiny.annotations(run / "data", "val"), run / "data/val2017"
    arguments = ["--checkpoint", str(run / "run/best.pt"), "--annotations", str(file), "--images", str(images)]
    arguments += ["--workers", "0", "--device", "cpu", "--output", str(tmp_path / "found")]
    assert evaluate([*arguments, "--no-report"]) == 0
    assert not (tmp_path / "found/report.html").exists()
    assert main([str(tmp_path / "found")]) == 0
    assert "Evaluation of run/best.pt" in (tmp_path / "found/report.html").read_text(encoding="utf-8")


# ---- comparisons ----


def test_runs_are_compared_with_the_settings_that_differ(run: Path, tmp_path: Path) -> None:
    one, other = copied(run, tmp_path / "one"), copied(run, tmp_path / "other")
    config = other / "config.gin"
    config.write_text(config.read_text().replace("CLIP = 10.0", "CLIP = 5.0"))
    found = json.loads((other / "val_detections.json").read_text())
    (other / "val_detections.json").write_text(json.dumps(found[::3]))
    output = tmp_path / "compare.html"
    assert main(["--compare", str(one), str(other), "--output", str(output)]) == 0
    page = output.read_text(encoding="utf-8")
    assert re.search(r"<td>CLIP</td><td>10\.0</td><td>5\.0</td>", page)
    assert "(0.00 and 0.00), whichever of the pictures are drawn." in page


def test_the_pictures_that_changed_are_told_with_the_sign_of_the_change(data: CocoData) -> None:
    before = results(data)
    after = [row for row in before if not (row["image_id"] == 2 and row["score"] == 0.8)]  # one object less
    one, other = (analyse(data.truth, each) for each in (before, after))  # type: ignore[arg-type]
    changed = {earlier.image_id: change for change, earlier, _ in changes(one, other)}
    assert changed[2] < 0
    assert all(f1(each) <= 1 for each in one.judged)
    assert changes(one, one) == []


def test_folders_on_other_boxes_are_not_compared(run: Path, tmp_path: Path) -> None:
    one, other = copied(run, tmp_path / "one"), copied(run, tmp_path / "other")
    tiny.change_annotations(other.parent / "data", lambda content: content["annotations"].pop(), "val")
    with pytest.raises(InputError, match="was evaluated on other pictures, classes or boxes"):
        compare_folders([one, other])


def test_folders_on_other_class_names_are_not_compared(run: Path, tmp_path: Path) -> None:
    one, other = copied(run, tmp_path / "one"), copied(run, tmp_path / "other")

    def rename(content: dict[str, list[dict[str, object]]]) -> None:
        content["categories"][0]["name"] = "another"

    tiny.change_annotations(other.parent / "data", rename, "val")
    with pytest.raises(InputError, match="was evaluated on other pictures, classes or boxes"):
        compare_folders([one, other])


def test_runs_of_other_limits_of_detections_are_compared_at_the_least(run: Path, tmp_path: Path) -> None:
    one, other = copied(run, tmp_path / "one"), copied(run, tmp_path / "other")
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**metrics, "max_detections": 7}))
    assert "Of the 7 best detections of a picture, all runs alike" in compare_folders([one, other])


def test_a_comparison_tells_alike_few_pictures_and_no_objects_apart(
    data: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, worse = (analyse(data.truth, results(data)[kept]) for kept in (slice(None), slice(0, 4)))  # type: ignore[arg-type]
    runs = [Compared(str(each), each, {}) for each in (one, worse)]
    assert difference_sentence(runs[0], runs[0], "B").endswith("whichever of the pictures are drawn.")
    assert "but 6 pictures cannot stand for others" in difference_sentence(runs[0], runs[1], "B")
    with monkeypatch.context() as patch:
        patch.setattr("gfl.report.compare_page.MOST_SAMPLED", 5)
        assert "was not counted: drawing them anew takes long" in difference_sentence(runs[0], runs[1], "B")
        patch.setattr("gfl.report.compare_page.choose_backend", lambda _: "pycocotools")
        assert "was not counted, for hotcoco is not installed" in difference_sentence(runs[0], runs[1], "B")
    empty = analyse(replace(data.truth, crowd=np.ones(len(data.truth.crowd), bool)), [])
    assert "cannot be compared" in difference_sentence(Compared("", empty, {}), Compared("", empty, {}), "B")


def test_settings_are_compared_among_the_runs_that_have_them(data: CocoData) -> None:
    analysed = analyse(data.truth, [])
    runs = [Compared("", analysed, settings) for settings in ({"LR": "1", "EMA": "0"}, {"LR": "2", "EMA": "0"}, {})]
    page = compare_page(runs, {})
    assert "Those of C are not known" in page
    assert "<td>LR</td>" in page
    assert "<td>EMA</td>" not in page


def test_a_set_too_large_to_be_looked_at_again_is_named(data: CocoData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_report, "MOST_CHECKED", 5)
    found = run_report.findings_of(Splits(data, data), DataConfig())
    assert list(found) == ["training", "validation"]
    assert all("6 pictures are not looked at here" in each[0].text for each in found.values())


# ---- refusals and small parts ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "got 0 things to report on"),
        (["--compare", "one"], "expected at least two"),
        (["nowhere"], "which has no config.gin"),
        (["--annotations", "a.json"], "expected all three"),
        (["folder", "--results", "a.json"], "got 2 things"),
        (["folder", "--output", "a.html"], "leave --output out"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in tiny.refusal(main, arguments, capsys)


@pytest.mark.parametrize("content", ["{}", "[1", '[{"image_id": 1}]'])
def test_results_that_are_none_are_one_sentence(
    data: CocoData, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = report_arguments(data, tmp_path, [])
    (tmp_path / "found.json").write_text(content)
    assert "expected" in tiny.refusal(main, arguments, capsys)


def test_a_log_that_was_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(file) == [{"step": 1}, {"step": 2}]
    file.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 1 of"):
        read_log(file)


def test_the_curves_are_drawn_again_only_for_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, drawn = [0.0], []

    def draw(folder: Path, batch: int) -> None:
        drawn.append(now[0])
        now[0] += 2.0  # what drawing takes

    monkeypatch.setattr(drawing_module, "write_curves", draw)
    drawing = Drawing(tmp_path, lambda text: None, clock=lambda: now[0])
    while now[0] < 1000:
        drawing.refresh_curves(2)
        now[0] += 1.0
    assert 0.002 < 2.0 * len(drawn) / now[0] < 0.005


def test_the_colours_of_a_plot_follow_the_page(analysed: Analysis) -> None:
    assert analysed.edges is not None
    drawn = figures.svg(figures.edges_figure(analysed.edges))
    assert drawn.startswith("<svg")
    assert "var(--ink)" in drawn
    assert figures.INK not in drawn
    assert "<text" in drawn


def test_class_names_of_any_script_and_with_signs_of_formulas_are_drawn(analysed: Analysis) -> None:
    names = ["猫 собака", "$a_{$ \\frac", "two\nlines\x1b"]
    drawn = figures.precision_recall_figure(analysed.curves, names, [row.AP for row in analysed.classes])
    assert figures.png(drawn)[:4] == b"\x89PNG"
    assert "猫 собака" in figures.svg(drawn)
    breakdown = analysed.breakdown
    assert breakdown is not None
    assert "猫" in figures.svg(figures.confusion_figure(breakdown.confusion, names))


@pytest.mark.parametrize("line", [b"5", b'{"loss": 1}', b"\xff\xfe", b"null"])
def test_a_line_of_the_log_that_is_no_step_is_one_sentence(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"line 2 of .*log\.jsonl is broken"):
        read_log(tmp_path / "log.jsonl")


def test_settings_that_are_no_text_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.gin").write_bytes(b"\xff")
    assert "is no text in UTF-8" in tiny.refusal(main, [str(tmp_path)], capsys)


def test_classes_of_one_name_have_bars_of_their_own_and_no_boxes_have_a_plot(data: CocoData) -> None:
    content = json.loads(data.annotations.read_text())
    content["categories"] = [{"id": number, "name": "cat"} for number in (1, 2, 3)]
    data.annotations.write_text(json.dumps(content))
    drawn = figures.svg(figures.labels_figure(read_coco(data.annotations, data.images, keep_empty=True)))
    assert all(f">cat ({number})<" in drawn for number in (1, 2, 3))
    data.annotations.write_text(json.dumps({**content, "annotations": []}))
    empty = read_coco(data.annotations, data.images, keep_empty=True)
    assert figures.png(figures.labels_figure(empty))[:4] == b"\x89PNG"


def test_boxes_are_drawn_on_pictures_that_are_shrunk_already(data: CocoData, analysed: Analysis) -> None:
    large = replace(data.pictures[0], height=640, width=800)
    cv2.imwrite(str(large.path), np.full((640, 800, 3), 128, np.uint8))
    truth = replace(analysed.truth, boxes_xywh=10 * analysed.truth.boxes_xywh)
    drawn = found_picture(large, analysed._replace(truth=truth), analysed.judged[0], 200)
    assert drawn is not None
    assert drawn.shape == (160, 200, 3)
    # Colours as they are, which a line that was shrunk with its picture does not keep.
    assert (drawn == np.array((213, 94, 0), np.uint8)).all(axis=2).sum() > 20


@pytest.mark.parametrize("steps", [[], [{"step": 1}]])
def test_a_run_without_numbers_has_a_plot(steps: list[dict[str, object]]) -> None:
    assert figures.png(figures.run_figure(steps, [], 2))[:4] == b"\x89PNG"


def test_of_boxes_on_one_object_the_best_is_shown_as_infer_draws_it(data: CocoData) -> None:
    found = results(data)
    second = {**found[1], "category_id": 1, "score": 0.3}  # on the second object, by another class
    analysed = analyse(data.truth, [*found, second])  # type: ignore[list-item]
    assert 0.3 not in analysed.shown.scores.round(6).tolist()


def test_every_error_that_is_shown_is_in_the_table_of_errors(analysed: Analysis, data: CocoData) -> None:
    rows = list(csv.DictReader(io.StringIO(error_table(analysed, {each.id: each for each in data.pictures}))))
    kinds = Counter(row["kind"] for row in rows)
    assert kinds == {"wrong class": 6, "background": 6, "missed": 6}
    missed = next(row for row in rows if row["kind"] == "missed")
    assert (missed["file_name"], missed["score"]) == ("1.jpg", "")
    assert [float(missed[name]) for name in ("x", "y", "width", "height")] == [float(side) for side in BOXES[0]]


def test_names_that_a_spreadsheet_would_run_stand_after_an_apostrophe(data: CocoData) -> None:
    named = replace(data.truth, class_names={1: "=1+1", 2: "a=b", 3: "-x"})
    analysed = analyse(named, results(data))
    assert [row["class"] for row in csv.DictReader(io.StringIO(class_table(analysed)))] == ["'=1+1", "a=b", "'-x"]
    pictures = {each.id: replace(each, file_name="@1.jpg") for each in data.pictures}
    rows = list(csv.DictReader(io.StringIO(error_table(analysed, pictures))))
    assert {row["class"] for row in rows} == {"'=1+1", "a=b"}
    assert {row["file_name"] for row in rows} == {"'@1.jpg"}


def test_each_plot_of_a_figure_is_a_picture_of_its_own(analysed: Analysis) -> None:
    names = [row.name for row in analysed.classes]
    mean, classes = figures.svgs(figures.precision_recall_figure(analysed.curves, names, [0.5, 0.5, None]))
    assert "mean over the classes" in mean
    assert "mean over the classes" not in classes
    assert "classes at IoU 0.50" in classes
