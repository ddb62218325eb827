"""What is installed on this machine, and whether it works. torch is imported only to see whether it can be."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from gfl.autoload import NPU_ENVIRONMENT, SWITCH
from gfl.errors import first_line
from gfl.machine import usable_cores


class Package(NamedTuple):
    """A package that the project may use."""

    module: str  # the name that is imported
    distributions: tuple[str, ...]  # the names that it is installed under
    purpose: str  # 'required', or what it is good for


REQUIRED = "required"
INFER_ONLY = "gflv2-infer"  # the distribution that runs an .onnx alone
INFER_NEEDS = ("numpy", "cv2", "onnxruntime")
PACKAGES = (
    Package("torch", ("torch",), REQUIRED),
    Package("numpy", ("numpy",), REQUIRED),
    Package("einops", ("einops",), REQUIRED),
    Package("gin", ("gin-config",), REQUIRED),
    Package("pycocotools", ("pycocotools",), REQUIRED),
    Package("cv2", ("opencv-python-headless", "opencv-python", "opencv-contrib-python"), REQUIRED),
    Package("safetensors", ("safetensors",), REQUIRED),
    Package("onnx", ("onnx",), REQUIRED),
    Package("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann"), REQUIRED),
    Package("hotcoco", ("hotcoco",), "optional: a quicker evaluation"),
    Package("fsspec", ("fsspec",), "optional: pictures in shards, files in object storage"),
    Package("openvino", ("openvino",), "optional: another runtime for an .onnx"),
    Package("executorch", ("executorch",), "optional: runs .pte files"),
    Package("ncnn", ("ncnn",), "optional: runs .param files"),
    Package("MNN", ("MNN",), "optional: runs .mnn files"),
    Package("ai_edge_litert", ("ai-edge-litert",), "optional: runs .tflite files"),
    Package("pyarrow", ("pyarrow",), "optional: results and pictures in Parquet"),
)
# Not imported to see whether they work: torch_npu needs a device and CANN, Apex patches torch.
NPU_DISTRIBUTIONS = ("torch_npu", "torch-npu")
# What Ascend and CUDA need beside packages.
CANN_HOME = "ASCEND_HOME_PATH"
TOOLS = {"npu-smi": "Ascend's driver", "atc": "compiles .om files", "nvidia-smi": "NVIDIA's driver"}
VARIABLES = (
    "ASCEND_RT_VISIBLE_DEVICES",
    *NPU_ENVIRONMENT,
    "TORCH_NPU_FALLBACK_CPU_DISABLE",
    "CUDA_VISIBLE_DEVICES",
    SWITCH,
)
GIB = 1024**3


def packages() -> dict[str, object]:
    """{package: its version, that it is absent, or that it is broken and why}."""
    states: dict[str, object] = {}
    for package in PACKAGES:
        if version_of((INFER_ONLY,)) and package.purpose == REQUIRED and package.module not in INFER_NEEDS:
            package = package._replace(purpose=f"not needed by {INFER_ONLY}")
        states[package.module] = state_of(package)
    if providers := onnx_providers():
        states["onnxruntime providers"] = providers
    states["torch_npu"] = version_of(NPU_DISTRIBUTIONS) or "absent (optional: training on an Ascend NPU)"
    states["apex"] = apex_kind()
    return states


def state_of(package: Package) -> str:
    """'2.1.0', 'absent (required)' or '2.1.0, broken: ImportError: ...'."""
    version = version_of(package.distributions)
    if version is None and importlib.util.find_spec(package.module) is None:
        return f"absent ({package.purpose})"
    problem = import_problem(package.module)
    known = version or "version unknown"
    return known if problem is None else f"{known}, broken: {problem}"


def version_of(distributions: tuple[str, ...]) -> str | None:
    """The versions of the distributions that are installed, named if it is not the first one alone; None for none."""
    installed = []
    for distribution in distributions:
        with suppress(metadata.PackageNotFoundError):
            installed.append((distribution, metadata.version(distribution)))
    if len(installed) == 1 and installed[0][0] == distributions[0]:
        return installed[0][1]
    # Two builds of one module, as onnxruntime and onnxruntime-cann, overwrite each other's files.
    return " beside ".join(f"{version} ({distribution})" for distribution, version in installed) or None


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported; None where it can. What it prints is dropped."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken installation may raise anything
            return reason(error)
    return None


def onnx_providers() -> list[str]:
    """What the installed ONNX Runtime was built with; whether a provider's device is there, only a run shows."""
    if importlib.util.find_spec("onnxruntime") is None or import_problem("onnxruntime") is not None:
        return []
    return list(importlib.import_module("onnxruntime").get_available_providers())


def apex_kind(name: str = "apex") -> str:
    """Which package calls itself apex, from its files alone."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return "absent (optional: PRECISION = 'o1' needs none)"
    version = version_of((name,)) or "version unknown"
    if any((Path(folder) / "amp").is_dir() for folder in spec.submodule_search_locations or ()):
        return f"{version}, with amp (APEX = True can try it)"
    return f"{version}, without amp: of no use here; PRECISION = 'o1' needs none"


def machine() -> dict[str, object]:
    """The computer, and how much memory and disk are free."""
    answers: dict[str, object] = {
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {usable_cores()} of them usable here",
        "free memory": free_memory(),
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB at {Path.cwd()}",
    }
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    return answers | threads


def surroundings() -> dict[str, object]:
    """What an NPU or a GPU needs beside packages: CANN, its tools, the driver's tools, and environment variables."""
    answers: dict[str, object] = {"CANN": cann_version()}
    for tool, task in TOOLS.items():
        answers[tool] = shutil.which(tool) or f"absent ({task})"
    answers["ais_bench"] = "present" if importlib.util.find_spec("ais_bench") else "absent (runs .om files)"
    variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return answers | {"variables": variables or "none set"}


def cann_version() -> str:
    """The version of the CANN whose set_env.sh was sourced, from a file of its installer."""
    home = os.environ.get(CANN_HOME)
    if home is None:
        return f"absent, or its set_env.sh not sourced ({CANN_HOME} is not set)"
    for file in [*Path(home).glob("ascend_*_install.info"), *Path(home).glob("*/ascend_*_install.info")]:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("version="):
                return f"{line.removeprefix('version=')} in {home}"
    return f"version unknown, in {home}"


def free_memory() -> str:
    """The memory that new programs can have, by the kernel's estimate."""
    try:
        table = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free, total = (int(table[name].split()[0]) / 2**20 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):  # not Linux
        return "unknown on this system"
    return f"{free:.1f} of {total:.1f} GiB"


def reason(error: BaseException) -> str:
    """An error in one line: its type and the first line of what it says."""
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"
