"""benchmarks.runtime_readers: what the table says of a reader that works, fails, dies, hangs or is not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_export import detection_arrays
from tiny_onnx import DESCRIPTION, H, W, write_onnx

from benchmarks.reader_child import installed, read
from benchmarks.readers import READERS, Job, Reader, Run, reason
from benchmarks.runtime_readers import LENGTH, Reference, cell_of, difference, read_all, table, told
from gfl.runtime.description import Arrays

IMAGES, SIZES = np.zeros((1, 1, 3, H, W), np.uint8), np.array([[[H, W]]], np.int32)


def job_of(file: Path) -> Job:
    return Job(file, ("boxes",), (H, W), 1, file.parent)


def reference_to(outputs: Sequence[Arrays]) -> Reference:
    return Reference(Path(), outputs, DESCRIPTION.thresholds)


def interpreter(path: Path, line: str) -> str:
    """A program in the place of Python."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


def test_the_table_tells_what_works_dies_hangs_and_is_not_installed(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.full((48, 96, 3), 200, np.uint8))
    file = write_onnx(tmp_path / "a.onnx", batch=1)
    pythons = {
        "tract": interpreter(tmp_path / "dies", "echo 'E: no such operator' >&2; kill -SEGV $$"),
        "mnn": interpreter(tmp_path / "hangs", "sleep 60 & sleep 60"),
    }
    limits = {"onnxruntime": 60.0, "onnxruntime-1.16": 60.0, "tract": 60.0, "mnn": 0.2}
    readings = [
        each
        for reader, limit_s in limits.items()
        for each in read_all(
            {"detections": file}, {}, [picture], pythons=pythons, readers=[reader], threads=1, limit_s=limit_s
        )
    ]
    works, missing, dies, hangs = (row for row in table(readings).rows)
    assert table(readings).header == ("runtime", "now: detections", "licence")
    assert works[0].startswith("ONNX Runtime (onnxruntime ")
    assert works[1] == "equal"
    assert missing[1] == "not installed here"
    assert dies[1] == hangs[1] == "no"
    reasons = table(readings).note.splitlines()[-2:]
    assert reasons == ["- tract: `SIGSEGV: E: no such operator`", "- MNN: nothing after 0.2 s"]


def test_a_reader_that_raises_tells_why(tmp_path: Path) -> None:
    def fails(job: Job) -> Run:
        raise KeyError(f"{job.file.name} has an operator")

    answer = read(Reader("A", ".onnx", ("numpy",), "", fails), job_of(tmp_path / "a.onnx"), IMAGES, SIZES)
    assert answer == {"error": "KeyError: 'a.onnx has an operator'"}


def test_a_reader_that_only_converts_has_not_run(tmp_path: Path) -> None:
    converts = Reader("A", ".onnx", ("numpy",), "", lambda job: None)
    assert read(converts, job_of(tmp_path / "a.onnx"), IMAGES, SIZES) == {}
    assert cell_of({}, reference_to([])) == "converted, not run"


def test_a_time_is_the_median_share_of_that_beside() -> None:
    outputs: Arrays = {"scores": np.array([[0.5]])}
    times = {"seconds": np.array([2.0, 6.0, 9.0]), "beside_seconds": np.array([1.0, 2.0, 3.0])}
    answer: Arrays = {"output_0": np.stack([outputs["scores"]] * 3), **times}
    assert cell_of(answer, reference_to([outputs] * 3)) == "equal, x 3.0"
    answer["output_0"] = np.zeros((3, 1, 2))
    assert cell_of(answer, reference_to([outputs] * 3)) == "no: `gives outputs of shapes [(1, 2)]`"


def test_a_version_that_does_not_count_is_not_installed() -> None:
    assert installed(("numpy",)) == {"numpy": np.__version__}
    assert installed(("numpy==0.",)) == installed(("numpy", "no-such-package")) == {}


def test_differences_are_those_of_detections_that_match() -> None:
    box, other = (10.0, 10.0, 50.0, 50.0), (200.0, 10.0, 250.0, 50.0)
    expected = detection_arrays((0.9, 0, box), (0.5, 1, other))
    near = detection_arrays((0.9, 0, box), (0.5 + 2e-6, 1, (200.0, 10.0, 250.0, 50.003)))
    reference = reference_to([expected])
    assert difference([expected], reference) == "equal"
    assert difference([near], reference) == "2e-06 / 0.003"
    alone = "1 of 2 detections matched, 1 alone and not by rounding, equal"
    assert difference([detection_arrays((0.9, 0, box))], reference) == alone
    low = detection_arrays((0.9, 0, box), (DESCRIPTION.thresholds.score + 1e-5, 1, other))
    assert difference([detection_arrays((0.9, 0, box))], reference_to([low])) == "1 of 2 detections matched, equal"
    tensors = reference_to([{"scores": np.array([[0.5]])}])
    assert difference([{"scores": np.array([[np.nan]])}], tensors) == "inf / 0"


@pytest.mark.parametrize(
    ("said", "expected"),
    [("start\nerror: no TopK\nusage: a b\n", "error: no TopK"), ("first\nlast\n\n", "last"), ("", "")],
)
def test_the_reason_is_the_line_that_names_a_failure(said: str, expected: str) -> None:
    assert reason(said) == expected


def test_a_long_reason_keeps_both_ends_and_no_markup() -> None:
    cell = told("begin `a|b` " + "x" * 200 + " end")
    assert len(cell) <= LENGTH + len("no: ``")
    assert cell.startswith("no: `begin 'a/b' ")
    assert cell.endswith(" end`")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "error: OpenCV(5.0.0) /io/src/onnx_importer.cpp:1114: error: (-2:Unspecified error) in function 'parse'\n"
            "> Node [GatherND@ai.onnx]:(onnx_node!GatherND_1) parse error: OpenCV(5.0.0) /io/src/gatherND.cpp:52: "
            "error: (-2:Unspecified error) in function 'virtual bool f(const std::vector<cv::MatShape>&, int) const'\n"
            "> > GatherND: requires two inputs\n> ",
            "error: GatherND: requires two inputs",
        ),
        (
            'ValueError: Exception encountered when calling layer "tf.where" (type TFOpLambda).\n\nDimensions must be '
            'equal\n\nCall arguments received by layer "tf.where" (type TFOpLambda):\n  * condition=tf.Tensor()',
            "ValueError: Dimensions must be equal",
        ),
    ],
)
def test_a_reason_is_told_without_what_stands_around_it(said: str, expected: str) -> None:
    assert told(said) == f"no: `{expected}`"


def test_every_reader_has_a_title_of_its_own_with_its_packages() -> None:
    assert len({(each.title, each.packages) for each in READERS.values()}) == len(READERS)
    assert {each.suffix for each in READERS.values()} == {".onnx", ".pt2"}
