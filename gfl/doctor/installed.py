"""What is installed on this machine and whether it works. No torch is imported except as one of the parts."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from gfl.autoload import SWITCH
from gfl.errors import first_line
from gfl.machine import usable_cores


class Part(NamedTuple):
    """A package by the name that is imported, and the names under which it is distributed."""

    module: str
    distributions: tuple[str, ...]
    needed: str  # for what


PARTS = (
    Part("torch", ("torch",), "required"),
    Part("numpy", ("numpy",), "required"),
    Part("einops", ("einops",), "required"),
    Part("gin", ("gin-config",), "required"),
    Part("pycocotools", ("pycocotools",), "required"),
    Part("cv2", ("opencv-python-headless", "opencv-python", "opencv-contrib-python"), "required"),
    Part("safetensors", ("safetensors",), "required"),
    Part("onnx", ("onnx",), "required"),
    Part("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann"), "required"),
    Part("faster_coco_eval", ("faster-coco-eval",), "optional: a quicker evaluation"),
)
# These are not imported to see whether they work: the one needs a device and CANN, the other patches torch.
NPU_DISTRIBUTIONS = ("torch_npu", "torch-npu")
APEX_PACKAGES = ("apex",)
# Beside packages, for Ascend and CUDA.
CANN_HOME = "ASCEND_HOME_PATH"
TOOLS = {"npu-smi": "Ascend's driver", "atc": "compiles .om files", "nvidia-smi": "NVIDIA's driver"}
VARIABLES = (
    "ASCEND_RT_VISIBLE_DEVICES",
    "TASK_QUEUE_ENABLE",
    "CPU_AFFINITY_CONF",
    "PYTORCH_NPU_ALLOC_CONF",
    "TORCH_NPU_FALLBACK_CPU_DISABLE",
    "CUDA_VISIBLE_DEVICES",
    SWITCH,
)
GIB = 1024**3


def packages() -> dict[str, object]:
    """{package: its version, that it is absent, or that it is broken and why}."""
    found: dict[str, object] = {part.module: state_of(part) for part in PARTS}
    providers = onnx_providers()
    if providers:
        found["onnxruntime providers"] = providers
    version = version_of(NPU_DISTRIBUTIONS)
    found["torch_npu"] = version or "absent (optional: training on an Ascend NPU)"
    found["apex"] = apex_kind()
    return found


def state_of(part: Part) -> str:
    """'2.1.0', 'absent (required)' or '2.1.0, broken: ImportError: ...'."""
    version = version_of(part.distributions)
    if version is None and importlib.util.find_spec(part.module) is None:
        return f"absent ({part.needed})"
    problem = import_problem(part.module)
    known = version or "version unknown"
    return known if problem is None else f"{known}, broken: {problem}"


def version_of(distributions: tuple[str, ...]) -> str | None:
    """The versions of those that are installed; with its name where it is not the first or there are several."""
    found = []
    for distribution in distributions:
        try:
            found.append((distribution, metadata.version(distribution)))
        except metadata.PackageNotFoundError:
            continue
    if len(found) == 1 and found[0][0] == distributions[0]:
        return found[0][1]
    # Two builds of one module overwrite each other's files: onnxruntime and onnxruntime-cann, say.
    return " beside ".join(f"{version} ({distribution})" for distribution, version in found) or None


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported; None where it can. What it prints meanwhile is dropped."""
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


def apex_kind() -> str:
    """Which package calls itself apex, from its files alone."""
    for name in APEX_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None:
            version = version_of((name,)) or "version unknown"
            folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
            if any((folder / "amp").is_dir() for folder in folders):
                return f"{version}, with amp (APEX = True can try it)"
            return f"{version}, without amp: of no use here; PRECISION = 'o1' needs none"
    return "absent (optional: PRECISION = 'o1' needs none)"


def machine() -> dict[str, object]:
    """The computer, and how much memory and disk are free."""
    found: dict[str, object] = {
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {usable_cores()} of them usable here",
        "free memory": free_memory(),
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB at {Path.cwd()}",
    }
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    return found | threads


def surroundings() -> dict[str, object]:
    """What an NPU or a GPU needs beside packages: CANN, its tools, the driver's, and the variables that steer them."""
    found: dict[str, object] = {"CANN": cann_version()}
    for tool, task in TOOLS.items():
        found[tool] = shutil.which(tool) or f"absent ({task})"
    found["ais_bench"] = "present" if importlib.util.find_spec("ais_bench") else "absent (runs .om files)"
    variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return found | {"variables": variables or "none set"}


def cann_version() -> str:
    """Of the CANN whose set_env.sh was sourced, by the file that its installer leaves."""
    home = os.environ.get(CANN_HOME)
    if home is None:
        return f"absent, or its set_env.sh not sourced ({CANN_HOME} is not set)"
    for file in [*Path(home).glob("ascend_*_install.info"), *Path(home).glob("*/ascend_*_install.info")]:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("version="):
                return f"{line.removeprefix('version=')} in {home}"
    return f"version unknown, in {home}"


def free_memory() -> str:
    """What new programs can have, by the kernel's own estimate."""
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
