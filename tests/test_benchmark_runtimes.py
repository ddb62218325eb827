"""benchmarks.runtimes: what a row says of a report, and where the table goes. The slow test measures two formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_export import SMALL_BINDINGS

from benchmarks.runtimes import HEADER, RUNTIMES, Row, reason
from benchmarks.sections import ABSOLUTE, place, pythons_of
from export.formats import FORMATS
from gfl.errors import InputError

REPORT: dict[str, object] = {
    "outputs": "detections",
    "mb": 12.94,
    "versions": {"opencv-python-headless": "5.0.0"},
    "largest": {"boxes": 3e-5, "scores": 4e-7, "edge_std": 1.0},
    "accuracy": {"file_ap": 0.53164},
    "ms": 36.0,
    "beside": {"runtime": "ONNX Runtime", "ms": 18.0},
}


def test_every_format_has_a_name_and_a_licence() -> None:
    assert FORMATS.keys() <= RUNTIMES.keys()


def test_a_row_says_what_its_report_says() -> None:
    cells = dict(zip(HEADER, Row("opencv", "fp32", REPORT).cells(), strict=True))
    assert cells["runtime"] == "OpenCV (opencv-python-headless 5.0.0)"
    assert cells["scores / boxes px"] == "4e-07 / 3e-05"
    assert (cells["AP"], cells["ms"], cells["beside"], cells["MB"]) == ("0.5316", "36.0", "2.00", "12.9")
    assert cells["run here"] == "yes"
    assert Row("openvino", "int8", {**REPORT, "largest": {}}).cells()[3] == "by AP"
    raw = {"scores_0": 1e-6, "scores_1": 2e-6, "edge_logits_0": 3e-5}
    assert Row("ncnn", "fp32", {**REPORT, "largest": raw}).cells()[3] == "2e-06 / -"


def test_a_row_of_what_did_not_run_says_why() -> None:
    cells = Row("tensorrt", "fp32", {"outputs": "detections", "mb": 1.0, "not_run": "converted, not run"}).cells()
    assert len(cells) == len(HEADER)
    assert cells[-1] == "converted, not run"


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("warning\nfailed: a.xml would not agree:\n  AP 0\n  more\n", "failed: a.xml would not agree: AP 0"),
        ("error: --format mnn needs MNN\n", "error: --format mnn needs MNN"),
        ("Traceback\n", "ended with 1"),
    ],
)
def test_the_reason_is_the_programs_sentence(stderr: str, expected: str) -> None:
    assert reason(subprocess.CompletedProcess([], 1, "", stderr)) == expected


def test_a_table_replaces_the_one_before_between_the_lines_of_its_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("top\n<!-- begin a -->\nold\n<!-- end a -->\nrest\n")
    for text in ("first", "new"):
        place(page, "a", text)
    assert page.read_text() == "top\n<!-- begin a -->\n\nnew\n\n<!-- end a -->\nrest\n"
    with pytest.raises(InputError, match="<!-- begin b -->"):
        place(page, "b", "text")
    with pytest.raises(InputError, match="needs one line"):
        place(tmp_path / "no.md", "a", "text")


@pytest.mark.parametrize("given", ["mnn", "mnn=/no/python", "no=python"])
def test_a_python_that_is_not_there_is_told_before_the_work(given: str) -> None:
    assert pythons_of([f"mnn={sys.executable}"], FORMATS) == {"mnn": sys.executable}
    with pytest.raises(InputError, match="expected NAME=PATH with one of openvino"):
        pythons_of([given], FORMATS)


def test_a_page_holds_no_path_of_the_machine() -> None:
    command = "python -m a --model /home/me/best.pt --python mnn=/opt/bin/python --output docs/a.md --flags 'B = 3 / 4'"
    told = "python -m a --model best.pt --python mnn=python --output docs/a.md --flags 'B = 3 / 4'"
    assert ABSOLUTE.sub(r"\1", command) == told


@pytest.mark.slow
def test_two_formats_are_measured(test_data: Path, tmp_path: Path) -> None:
    page, bccd = tmp_path / "page.md", test_data / "bccd"
    page.write_text("<!-- begin runtimes -->\n<!-- end runtimes -->\n")
    words = ["--model", test_data / "bccd_r18" / "model.pth", "--images", bccd / "val", "--quick", "--output", page]
    words += ["--annotations", bccd / "annotations" / "instances_val.json", "--formats", "opencv", "tensorrt"]
    model = ["--flags", "--size", "256x320", "--gin_file", "base.gin", "--gin_bindings", *SMALL_BINDINGS]
    program = [sys.executable, "-m", "benchmarks.runtimes", *map(str, words), *model]
    subprocess.run(program, check=True, cwd=Path(__file__).parent.parent)
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 7  # the head, three of ONNX Runtime, PyTorch, OpenCV, TensorRT
    assert "converted, not run" in rows[-1][-2]
    assert all(float(row[5]) > 0.4 for row in rows[1:-1])
