"""The programs in docs/deployment.md, run as they stand there, find what this project finds.

What is not installed is skipped. OpenVINO, Node.js and ncnn's library for C++ may be elsewhere: GFL_OPENVINO names a
Python with openvino and opencv, GFL_NODE_MODULES a folder with onnxruntime-node and sharp, GFL_NCNN_CMAKE the folder
of ncnnConfig.cmake.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from tiny_export import NAMES, H, W, lying_exports, write_model

from export import to
from export.formats import FORMATS
from gfl.data.synthetic import draw_scene
from gfl.runtime.detect import load
from gfl.runtime.result import Result

TEXT = (Path(__file__).parent.parent / "docs" / "deployment.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- runs: (\w+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))
FILES = {  # what each block is saved as; a program of a runtime in Python is detect_<runtime>.py
    "prepare": "prepare.py",
    "choose": "choose.py",
    "metadata": "metadata.py",
    "cmake": "CMakeLists.txt",
    "prepare_hpp": "prepare.hpp",
    "openvino_cpp": "detect_openvino.cpp",
    "ncnn_cpp": "detect_ncnn.cpp",
    "node": "detect.js",
}
SIZES = {
    "exact": (64, 96),
    "smaller": (50, 70),
    "larger": (111, 90),
    "long": (40, 250),
}  # of pictures for a canvas of 64 x 96
LEAST = [0.05, 0.1, 0.15, 0.05, 0.03]  # score thresholds: some of each class pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")  # of its own: a program writes beside the file
    graph = onnx.load(next(lying_exports(tmp_path_factory).glob("*.onnx")))
    thresholds = next(entry for entry in graph.metadata_props if entry.key == "score_thresholds")
    thresholds.value = json.dumps(LEAST)
    onnx.save(graph, folder / "best.onnx")
    return folder / "best.onnx"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model in a format of export.to; the test is skipped where what writes or runs it is not installed."""

    @cache
    def file_of(name: str) -> Path:
        for package in (*FORMATS[name].packages, FORMATS[name].runtime):
            pytest.importorskip(package)
        folder = tmp_path_factory.mktemp(name)
        checkpoint = write_model(folder / "run" / "best.pt", score_thresholds=LEAST)
        flags = ["--format", name, "--model", checkpoint, "--output", folder / "out", "--size", f"{H}x{W}"]
        assert to.main([str(flag) for flag in (*flags, "--samples", 2, "--threads", 1)]) == 0
        return next((folder / "out").glob(f"*{FORMATS[name].suffix}"))

    return file_of


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for index, (name, size_hw) in enumerate(SIZES.items()):
        image = draw_scene(seed=1, split="val2017", index=index, size_hw=(max(size_hw), max(size_hw))).image
        files.append(folder / f"{name}.png")
        assert cv2.imwrite(str(files[-1]), np.ascontiguousarray(image[: size_hw[0], : size_hw[1], ::-1]))
    return files


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every block of the page as a file."""
    folder = tmp_path_factory.mktemp("programs")
    for kind, text in BLOCKS.items():
        (folder / FILES.get(kind, f"detect_{kind}.py")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def compiled(programs: Path) -> Callable[[str], Path]:
    """A runtime's program in C++; the test is skipped where a tool or a library for it is missing."""

    @cache
    def program_of(runtime: str) -> Path:
        missing = [tool for tool in ("c++", "cmake", "pkg-config") if shutil.which(tool) is None]
        if missing or subprocess.run(["pkg-config", "--exists", "opencv4", "nlohmann_json"], check=False).returncode:
            pytest.skip(f"the programs in C++ need OpenCV, nlohmann-json and {missing or 'nothing else'}")
        if runtime == "openvino":
            place = f"OpenVINO_DIR={pytest.importorskip('openvino.utils').get_cmake_path()}"
        elif not (place := os.environ.get("GFL_NCNN_CMAKE", "")):
            pytest.skip("GFL_NCNN_CMAKE, the folder of ncnnConfig.cmake, is unset")
        else:
            place = f"ncnn_DIR={place}"
        folder, target = programs / f"build_{runtime}", f"detect_{runtime}"
        configure = ["cmake", "-S", programs, "-B", folder, "-D", "CMAKE_BUILD_TYPE=Release", "-D", place]
        for command in (configure, ["cmake", "--build", folder, "--target", target]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        return folder / target

    return program_of


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


def printed(*command: str | Path, **environment: str) -> list[tuple[str, list[float]]]:
    """What a program prints: the class and five numbers of each detection; lines of the runtime's own are left out."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
    }  # prepare.py is beside it
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**inherited, **environment})
    assert done.returncode == 0, done.stderr
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    return [(row[0], [float(number) for number in row[1:]]) for row in rows if row[0] in NAMES]


def assert_same(rows: list[tuple[str, list[float]]], result: Result, px: float = 0.02, score: float = 1e-4) -> None:
    assert len(rows) == len(result.scores) > 2
    assert [name for name, _ in rows] == list(result.names)
    numbers = np.array([values for _, values in rows])
    np.testing.assert_allclose(numbers[:, 0], result.scores, rtol=0, atol=score)
    np.testing.assert_allclose(numbers[:, 1:], result.boxes_xyxy, rtol=0, atol=px)


@pytest.mark.parametrize("kind", ["onnxruntime", "openvino"])
def test_a_program_in_python_finds_what_the_project_finds_in_an_onnx(
    kind: str, model: Path, pictures: list[Path], programs: Path
) -> None:
    python, detect = python_of(kind), load(model, provider="cpu")
    for picture in pictures:
        assert_same(printed(python, programs / f"detect_{kind}.py", model, picture), detect(picture).confident())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openvino", "mnn", "litert", "executorch", "opencv", "ncnn"])
def test_a_program_in_python_finds_what_the_project_finds_in_a_converted_file(
    kind: str, converted: Callable[[str], Path], pictures: list[Path], programs: Path
) -> None:
    file = converted(kind)
    detect = load(file, threads=1)
    for picture in pictures:
        assert_same(printed(sys.executable, programs / f"detect_{kind}.py", file, picture), detect(picture).confident())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openvino", "ncnn"])
def test_a_program_in_cpp_finds_the_same(
    kind: str, compiled: Callable[[str], Path], converted: Callable[[str], Path], pictures: list[Path]
) -> None:
    program, file = compiled(kind), converted(kind)
    detect = load(file, threads=1)
    for picture in pictures:  # OpenCV is another, and may round a resized pixel otherwise
        assert_same(printed(program, file, picture), detect(picture).confident(), px=0.1, score=1e-3)


def test_a_program_in_javascript_finds_the_same(
    model: Path, pictures: list[Path], programs: Path, tmp_path: Path
) -> None:
    node, modules = shutil.which("node"), os.environ.get("GFL_NODE_MODULES")
    if node is None or not modules:
        pytest.skip("node is missing, or GFL_NODE_MODULES, a folder with onnxruntime-node and sharp, is unset")
    copy = shutil.copy(model, tmp_path / "best.onnx")
    assert printed(sys.executable, programs / FILES["metadata"], copy) == []
    detect = load(model, provider="cpu")
    picture = pictures[0]  # as large as the canvas: random weights would magnify another rounding of resized pixels
    rows = printed(node, programs / FILES["node"], copy, picture, NODE_PATH=modules)
    assert_same(rows, detect(picture).confident())
