"""The way to an Ascend NPU through ONNX Runtime, as far as a machine without one goes.

onnxruntime-cann installs itself in the place of onnxruntime and needs numpy<2, so it gets an environment of its own.
It lists CANN's provider also where there is no CANN: these tests hold that nobody takes the CPU's results for an NPU's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_onnx import H, W, write_onnx

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("onnxruntime-cann", "numpy<2", "opencv-python-headless")  # all that infer/ needs, and no PyTorch
INSTALLATION_SECONDS = 900

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with onnxruntime-cann and without CANN."""
    folder = tmp_path_factory.mktemp("cann") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    interpreter = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    try:
        done = subprocess.run(
            [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
            capture_output=True,
            text=True,
            timeout=INSTALLATION_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"onnxruntime-cann was not installed in {INSTALLATION_SECONDS} s")
    if done.returncode:
        pytest.skip(f"onnxruntime-cann cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    if run(interpreter, "-c", "import ctypes; ctypes.CDLL('libascendcl.so')").returncode == 0:
        pytest.skip("CANN is here: `make npu-check` runs what an NPU can show")
    return interpreter


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx and pictures/ of three pictures, in two batches."""
    folder = tmp_path_factory.mktemp("job")
    write_onnx(folder / "model.onnx")
    (folder / "pictures").mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (H, W, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), image)
    return folder


def run(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in (python, *arguments)], capture_output=True, text=True, check=False)


def infer(python: Path, job: Path, output: str, *flags: str) -> subprocess.CompletedProcess[str]:
    given = ("--model", job / "model.onnx", "--input", job / "pictures", "--output", job / output)
    return run(python, ROOT / "infer" / "run.py", *given, *flags)


def test_asking_for_cann_without_cann_is_an_error_of_one_sentence(python: Path, job: Path) -> None:
    done = infer(python, job, "refused", "--provider", "cann")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: got the provider cann for model.onnx, but ")
    assert done.stderr.count("\n") == 1
    for part in ("libascendcl.so", "onnxruntime-cann", "numpy<2", "CANN toolkit", "--allow_fallback"):
        assert part in done.stderr
    assert not (job / "refused").exists()


def test_the_cpu_stands_in_where_it_may_and_that_is_said(python: Path, job: Path) -> None:
    cache = job / "om"
    options = ("--provider_options", "precision_mode=allow_fp32_to_fp16", f"om_cache={cache}")
    done = infer(python, job, "fallback", "--provider", "cann", *options, "--allow_fallback")
    assert done.returncode == 0, done.stderr
    assert "provider cann: it could not be started (libascendcl.so" in done.stdout
    summary = json.loads((job / "fallback" / "summary.json").read_text())
    assert summary["provider"] == "CPUExecutionProvider"
    assert summary["nodes_by_provider"].keys() == {"CPUExecutionProvider"}
    assert any("libascendcl.so" in note for note in summary["notes"])

    plain = infer(python, job, "plain", "--provider", "cpu")
    assert plain.returncode == 0, plain.stderr
    assert "note:" not in plain.stdout
    found, expected = (json.loads((job / name / "detections.json").read_text()) for name in ("fallback", "plain"))
    assert found == expected
    assert len(found) == 3


def test_auto_does_not_take_a_provider_that_is_only_listed(python: Path, job: Path) -> None:
    done = infer(python, job, "auto")
    assert done.returncode == 0, done.stderr
    summary = json.loads((job / "auto" / "summary.json").read_text())
    assert summary["provider"] == "CPUExecutionProvider"
    assert any(note.startswith("provider cann: ") for note in summary["notes"])


def test_a_mistyped_option_of_cann_is_told(python: Path, job: Path) -> None:
    done = infer(python, job, "typo", "--provider", "cann", "--provider_options", "precision_mod=force_fp16")
    assert done.returncode == 2
    assert "did you mean precision_mode?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_numpy_2_is_named_where_it_breaks_the_package(python: Path, job: Path, tmp_path: Path) -> None:
    broken = tmp_path / "numpy2"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", broken)
    assert run(python, *install, "numpy>=2,<3").returncode == 0
    program = (
        f"import sys; sys.path[:0] = [{str(broken)!r}, {str(ROOT)!r}]\n"
        "from pathlib import Path\nfrom gfl.runtime.onnx_file import open_onnx\nfrom gfl.errors import InputError\n"
        f"try:\n    open_onnx(Path({str(job / 'model.onnx')!r}))\nexcept InputError as error:\n    print(error)"
    )
    said = run(python, "-c", program).stdout
    assert said.startswith("an .onnx needs onnxruntime, which cannot be imported")
    assert "numpy<2" in said
