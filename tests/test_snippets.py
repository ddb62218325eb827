"""The programs in README.md and docs/deployment.md, run as they stand there, find what this project finds.

OpenVINO and Node.js may be elsewhere: GFL_OPENVINO names a Python with openvino and opencv, GFL_NODE_MODULES a folder
with onnxruntime-node and sharp.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from tiny_export import lying_exports

from gfl.data.synthetic import draw_scene
from gfl.runtime.detect import load
from gfl.runtime.result import Result

ROOT = Path(__file__).parent.parent
TEXT = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/deployment.md"))
BLOCKS = dict(re.findall(r"<!-- runs: (\w+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))
SIZES = {
    "exact": (64, 96),
    "smaller": (50, 70),
    "larger": (111, 90),
    "long": (40, 250),
}  # of pictures for a canvas of 64 x 96


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")  # of its own: a program writes beside the file
    graph = onnx.load(next(lying_exports(tmp_path_factory).glob("*.onnx")))
    thresholds = next(entry for entry in graph.metadata_props if entry.key == "score_thresholds")
    thresholds.value = json.dumps([0.05, 0.1, 0.15, 0.05, 0.03])  # so that some of each class pass
    onnx.save(graph, folder / "best.onnx")
    return folder / "best.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for index, (name, size_hw) in enumerate(SIZES.items()):
        image = draw_scene(seed=1, split="val2017", index=index, size_hw=(max(size_hw), max(size_hw))).image
        files.append(folder / f"{name}.png")
        assert cv2.imwrite(str(files[-1]), np.ascontiguousarray(image[: size_hw[0], : size_hw[1], ::-1]))
    return files


def python_of(kind: str) -> str:
    """The Python that runs a program; the test is skipped where there is none."""
    if kind != "openvino":
        return sys.executable
    named = os.environ.get("GFL_OPENVINO")
    if named:
        return named
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed and GFL_OPENVINO, which names a Python that has it, is unset")
    return sys.executable


def printed(command: list[str], **environment: str) -> list[tuple[str, list[float]]]:
    """What a program prints: the class and five numbers of each detection."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    return [(row[0], [float(number) for number in row[1:]]) for row in rows]


def assert_same(rows: list[tuple[str, list[float]]], result: Result, px: float, score: float) -> None:
    assert len(rows) == len(result.scores) > 2
    assert [name for name, _ in rows] == list(result.names)
    numbers = np.array([values for _, values in rows])
    np.testing.assert_allclose(numbers[:, 0], result.scores, rtol=0, atol=score)
    np.testing.assert_allclose(numbers[:, 1:], result.boxes_xyxy, rtol=0, atol=px)


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_a_program_in_python_finds_what_the_project_finds(
    kind: str, model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    python, program = python_of(kind), tmp_path / "program.py"
    program.write_text(BLOCKS[kind])
    detect = load(model, provider="cpu")
    for picture in pictures:
        assert_same(
            printed([python, str(program), str(model), str(picture)]), detect(picture).confident(), px=0.02, score=1e-4
        )


def test_a_program_in_javascript_finds_the_same(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    node, modules = shutil.which("node"), os.environ.get("GFL_NODE_MODULES")
    if node is None or not modules:
        pytest.skip("node is missing, or GFL_NODE_MODULES, a folder with onnxruntime-node and sharp, is unset")
    (tmp_path / "metadata.py").write_text(BLOCKS["metadata"])
    (tmp_path / "program.js").write_text(BLOCKS["node"])
    copy = shutil.copy(model, tmp_path / "best.onnx")
    assert printed([sys.executable, str(tmp_path / "metadata.py"), copy]) == []
    detect = load(model, provider="cpu")
    picture = pictures[0]  # as large as the canvas: random weights would magnify another rounding of resized pixels
    rows = printed([node, str(tmp_path / "program.js"), copy, str(picture)], NODE_PATH=modules)
    assert_same(rows, detect(picture).confident(), px=0.02, score=1e-4)
