"""The detector of bulk jobs on Spark and on Daft, by the programs that docs/scale.md shows."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import documents
import infer_program
import numpy as np
import pytest
from tiny_onnx import write_onnx

pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
import pyarrow.parquet as pq

pytestmark = pytest.mark.slow


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, object]:
    """What infer finds in the pictures that the programs look at, in whose folder they run; by the files' names."""
    monkeypatch.chdir(tmp_path)
    write_onnx(Path("best.onnx"))
    Path("pictures").mkdir()
    for i in range(200):
        Path(f"pictures/{i:03}.jpg").write_bytes(cv2.imencode(".jpg", np.full((40 + i % 50, 90, 3), i, np.uint8))[1])
    Path("pictures/200.jpg").write_bytes(b"no picture")  # of an empty file, Spark gives no row
    words = ["--model", "best.onnx", "--input", "pictures", "--output", "infer", "--format", "parquet"]
    assert infer_program.detect(*words) == 0
    return by_name("infer/results-*.parquet")


def by_name(pattern: str) -> Mapping[str, object]:
    """Detections, and whether the picture could be read, by the names of the files; no name comes twice."""
    rows = [row for path in sorted(Path().glob(pattern)) for row in pq.read_table(path).to_pylist()]
    found = {Path(row["file"]).name: (row["failure"] is None, row["detections"]) for row in rows}
    assert len(found) == len(rows)
    return found


def run_block(word: str, **environment: str) -> str:
    """Run the one program of docs/scale.md that has a word in it; what it said where it failed, else nothing."""
    (block,) = (each for each in documents.blocks("docs/scale.md") if documents.is_python(each) and word in each.text)
    path = os.pathsep.join([str(documents.ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stderr if done.returncode else ""


def test_spark_gives_infers_rows(expected: Mapping[str, object]) -> None:
    pytest.importorskip("pandas")
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed")
    said = run_block(
        "mapInPandas",
        PYSPARK_PYTHON=sys.executable,
        SPARK_LOCAL_IP="127.0.0.1",
        PYSPARK_SUBMIT_ARGS="--master local[2] --conf spark.ui.enabled=false pyspark-shell",
    )
    if "JAVA_GATEWAY_EXITED" in said:
        pytest.skip("there is no Java 17")
    assert said == ""
    assert by_name("found_spark/*.parquet") == expected


def test_daft_gives_infers_rows(expected: Mapping[str, object]) -> None:
    if importlib.util.find_spec("daft") is None:
        pytest.skip("daft is not installed")
    assert run_block("daft.cls") == ""
    assert by_name("found_daft/*.parquet") == expected
