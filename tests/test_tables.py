"""An evaluation as a person reads it."""

from __future__ import annotations

from dataclasses import replace

from gfl.report.best_f1 import BestF1
from gfl.report.coco_eval import Metrics
from gfl.report.tables import aligned, evaluation_report, per_class_table, summary_table, threshold_line


def metrics_of(per_class: dict[str, float | None]) -> Metrics:
    return Metrics(0.5321, 0.8402, 0.5873, -1.0, 0.3921, 1.0, 0.3, 0.4, 0.5, -1.0, 0.6, 0.7, per_class, 1234, 2.04)


def test_the_summary_table_is_aligned_in_percent_with_a_dash_for_nothing_to_find() -> None:
    assert summary_table(metrics_of({})).split("\n") == [
        "        all   IoU .50    IoU .75  small  medium  large",
        "AP     53.2      84.0       58.7      -    39.2  100.0",
        "    1/image  10/image  100/image  small  medium  large",
        "AR     30.0      40.0       50.0      -    60.0   70.0",
    ]


def test_the_summary_table_names_the_limits_that_were_measured_at() -> None:
    table = summary_table(replace(metrics_of({}), max_detections=7))
    assert "1/image  7/image  7/image" in table


def test_the_class_table_ranks_classes_and_says_which_had_no_boxes() -> None:
    assert per_class_table({"cat": 0.1, "fox": None, "dog": 0.35}).split("\n") == [
        "class    AP",
        "dog    35.0",
        "cat    10.0",
        "fox       -",
        "- 1 without ground truth, in no average",
    ]


def test_names_with_ends_of_lines_are_one_line_each() -> None:
    names = [f"c{number}" for number in range(21)]
    table = per_class_table(dict.fromkeys([*names, "two\nlines\x1b"], 0.5))
    assert "two\\nlines\\x1b  50.0" in table
    assert len(table.split("\n")) == 1 + 11
    assert "\n" not in threshold_line({"two\nlines": BestF1(0.5, 0.5, 0.5, 0.5), "none\nfound": None})


def test_many_classes_stand_in_blocks_and_none_is_lost() -> None:
    assert [per_class_table({f"c{i}": 0.5 for i in range(count)}).count("50.0") for count in (1, 21, 81)] == [1, 21, 81]
    table = per_class_table({f"c{index}": index / 100 for index in range(23)}, blocks=4)
    lines = table.split("\n")
    assert len(lines) == 1 + 6
    assert sorted(word for word in table.split() if word[0] == "c" and word != "class") == sorted(
        f"c{index}" for index in range(23)
    )
    assert lines[0].split() == ["class", "AP"] * 4


def test_wide_characters_keep_columns_aligned() -> None:
    assert aligned([["猫", "1"], ["fox!", "22"]]) == "猫     1\nfox!  22"


def test_the_report_of_no_classes_still_reads() -> None:
    assert evaluation_report(metrics_of({})).endswith("no classes\n\n1,234 images, their detections counted in 2.0 s")


def test_the_report_names_the_score_of_the_highest_f1_of_each_class() -> None:
    best = {"cat": BestF1(0.412, 0.8, 0.8, 0.8), "dog": None, "fox": BestF1(0.38, 0.7, 0.7, 0.7)}
    assert (
        threshold_line(best)
        == "highest F1 from a score of: cat 0.41, fox 0.38; not measured, because none was found: dog"
    )
    many = {f"class {i}": BestF1(0.3 + i / 100, 0.8, 0.8, 0.8) for i in range(20)}
    assert threshold_line(many) == "highest F1 from a score of: 0.30 to 0.49, by class (metrics.json)"
    assert threshold_line({"dog": None}) == ""
