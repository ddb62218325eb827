"""gflv2-infer: the same code as gflv2 with what an .onnx needs alone, for machines without PyTorch.

    pip install ./packaging/infer

Extras can only add requirements, and `pip install .` is to bring all that the commands need: hence a distribution of
its own. It installs the same packages as gflv2, so an environment takes one of the two.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("numpy", "opencv-python-headless", "onnxruntime")  # of gflv2's requirements
LEFT_OUT = ("test", "docs", "npu")  # of its extras: these are for training


def value_of(name: str) -> object:
    """What the project's own setup.py assigns to a name, read without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            value: object = ast.literal_eval(node.value)
            return value
    raise RuntimeError(f"{ROOT / 'setup.py'} assigns nothing to {name}")


def version() -> str:
    """The version of gfl/version.py, which its requirements keep from being imported here."""
    text = (ROOT / "gfl" / "version.py").read_text(encoding="utf-8")
    return text.split('VERSION = "')[1].split('"')[0]


above = os.path.relpath(ROOT, Path(__file__).resolve().parent)  # setuptools takes relative paths only
setup(
    name="gflv2-infer",
    version=version(),
    description="Generalized Focal Loss V2: detection with exported .onnx models, without PyTorch",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=value_of("PACKAGES"),
    package_dir={"": above, "gfl.configs": f"{above}/gin"},
    package_data={
        "gfl.configs": ["*.gin", "*/*.gin"],
        "gfl.operators": ["npu_operators.txt"],
        "gfl.report": ["assets/*"],
        "export": ["cann_operators.txt"],
        "infer": ["page/*"],
    },
    install_requires=[each for each in value_of("REQUIREMENTS") if each.startswith(NEEDED)],
    options={"egg_info": {"egg_base": "."}},  # else it lies beside the project's own
    extras_require={name: each for name, each in value_of("EXTRAS").items() if name not in LEFT_OUT},
    entry_points={"console_scripts": ["gfl = gfl.__main__:main"]},
)
