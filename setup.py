"""Packaging: what ships, and what it needs to run."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"

# By name: find_packages would also take up tests, and find_namespace_packages gin/, which would hide gin-config.
PACKAGES = [
    "gfl",
    "gfl.card",
    "gfl.configs",
    "gfl.data",
    "gfl.data.check",
    "gfl.data.convert",
    "gfl.data.shards",
    "gfl.data.source",
    "gfl.data.split",
    "gfl.doctor",
    "gfl.engine",
    "gfl.model",
    "gfl.model.backbones",
    "gfl.npu_check",
    "gfl.operators",
    "gfl.record",
    "gfl.record.trackers",
    "gfl.report",
    "gfl.runtime",
    "gfl.runtime.on_torch",
    "gfl.tensors",
    "export",
    "export.formats",
    "infer",
    "infer.bulk",
    "infer.serve",
]

REQUIREMENTS = [
    "torch>=2.6,<3",
    "numpy>=1.26,<3",
    "einops>=0.8,<1",
    "gin-config>=0.5,<1",
    "pycocotools>=2.0.8,<3",
    # Counts as pycocotools does, in a hundredth of the time; Windows on Arm has no wheel of it and does without.
    'hotcoco>=1.3,<2; sys_platform != "win32" or platform_machine == "AMD64"',
    "opencv-python-headless>=4.9,<6",
    "filelock>=3.30,<5",
    "pyyaml>=6,<7",
    "rich>=13.9,<16",
    "matplotlib>=3.9,<4",
    "safetensors>=0.4.3,<1",
    "onnx>=1.17,<2",
    "onnxscript>=0.5,<1",
    "onnxruntime>=1.20,<2",
]

EXTRAS = {
    "test": [
        "pytest>=8,<10",
        "pytest-cov>=6,<8",
        "pytest-xdist>=3.6,<4",
        "hypothesis>=6.100,<7",
        "ruff>=0.9,<1",
        "mypy>=1.14,<3",
        "pillow>=10,<13",
        "pyarrow>=16,<30",
        "gflv2[serve]",
    ],
    "browser": ["playwright>=1.45,<2", "axe-playwright-python>=0.1.4,<1"],  # tests of the pages; a Chromium beside them
    # What the slow tests need, but for onnx2tf, which brings TensorFlow. Beside it, from the system: Chromium, npm,
    # wrk, a Java 17, and a C++ compiler with OpenCV; a test that lacks one is skipped, and says so.
    "test-slow": [
        "gflv2[test,browser,large,mlflow,mnn,openvino-int8,ray,storage,tensorboard,track,trackio,wandb]",
        "daft>=0.5,<1",
        "locust>=2.30,<3",
        "moto[server]>=5,<6",
        "pandas>=2,<4",
        "pyspark>=3.5,<5",
        "s3fs>=2024.6",
        "tritonclient[http]>=2.50,<3",
    ],
    "docs": ["zensical>=0.1,<0.2"],
    "openvino": ["openvino>=2024.4"],
    "openvino-int8": ["gflv2[openvino]", "nncf>=3,<4"],
    # The other runtimes of export.to: what converts and what runs.
    "mnn": ["MNN>=3.2,<4"],
    "executorch": ["executorch>=1.5,<2"],
    "coreml": ["coremltools>=9,<10"],
    # What rknn-toolkit2 runs with. It is not among them, for it asks for a torch older than this project's: it is
    # installed after them, with --no-deps (docs/export.md).
    "rknn": [
        "onnx>=1.17,<1.19",
        "protobuf<5",
        "fast-histogram>=0.11",
        "psutil>=5.9",
        "ruamel.yaml>=0.17.21",
        "scipy>=1.9.3",
        "setuptools<81",
        "tqdm>=4.64.1",
    ],
    "ncnn": ["ncnn>=1.0.20260000", "pnnx>=20260000"],
    "litert": ["onnx2tf>=1.29,<2", "ai-edge-litert>=2.1,<3"],
    "parquet": ["pyarrow>=16,<30"],
    "large": ["rasterio>=1.3,<2"],  # reads by rows what is too large to be decoded
    "track": ["trackers>=2.6,<3"],
    "serve": ["starlette>=1,<2", "uvicorn>=0.51,<1", "python-multipart>=0.0.20,<1", "prometheus-client>=0.21,<1"],
    "storage": ["fsspec>=2024.6"],  # beside it the package of a protocol: s3fs, gcsfs
    # The checkpoints of Ray Data, which a job goes on with, name parts before they are written since this version.
    "ray": ["ray[data,train]>=2.60,<3", "pyarrow>=16,<30", "gflv2[storage]"],
    # What TRACKERS can name. With a server that MLFLOW_TRACKING_URI names, mlflow-skinny does as well.
    "tensorboard": ["tensorboard>=2.16,<3"],
    "mlflow": ["mlflow>=2.14,<4"],
    "wandb": ["wandb>=0.31,<1"],
    "trackio": ["trackio>=0.40,<1"],
    # Its version must be that of torch: pip install -e '.[npu]' torch==2.13.0 torch-npu==2.13.0
    "npu": ["torch-npu>=2.6,<3", "pyyaml>=6,<7"],
}


def version() -> str:
    """The version, read from gfl/version.py without importing it: its requirements are not there yet."""
    text = (ROOT / "gfl" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^VERSION = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError('gfl/version.py has no line VERSION = "..."')
    return found.group(1)


setup(
    name="gflv2",
    version=version(),
    description="Generalized Focal Loss V2 on PyTorch: train, evaluate, export and infer on CPU, GPU and Ascend NPU",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=PACKAGES,
    # The run files lie in gin/ and ship as gfl/configs.
    package_dir={"gfl.configs": "gin"},
    package_data={
        "gfl.configs": ["*.gin", "*/*.gin"],
        "gfl.operators": ["npu_operators.txt"],
        "gfl.report": ["assets/*"],
        "export": ["cann_operators.txt"],
        "infer": ["page/*"],
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["gfl = gfl.__main__:main"]},
)
