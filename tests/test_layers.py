"""The layers of the project, read off its imports: `RULES` take {path: source} and yield what breaks them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gfl", "export", "infer", "benchmarks")

Sources = Mapping[str, str]  # path relative to the root, with forward slashes -> source text
Rule = Callable[[Sources], Iterator[str]]

# A module belongs to the longest of these that begins its dotted name; everything else is a program.
LAYERS = {
    "gfl.errors": 0,
    "gfl.tensors": 1,
    "gfl.model": 2,
    "gfl.config": 3,
    "gfl.settings": 3,
    "gfl.data": 3,
    "gfl.engine": 3,
    "gfl.report": 3,
    "gfl.inference": 4,  # joins data and engine: a trained model of any form as a function of pictures
}
PROGRAMS = 5

# Within the world: data, engine and report are joined by the programs. A checkpoint holds its run's configuration.
WORLD_IMPORTS = {
    "gfl.settings": (),
    "gfl.config": ("gfl.settings",),
    "gfl.data": ("gfl.settings",),
    "gfl.engine": ("gfl.settings", "gfl.config"),
    "gfl.report": ("gfl.settings",),
}

# The named tuples that the parts of the model hand to each other; they import no part.
MODEL_VOCABULARY = ("gfl.model.anchors", "gfl.model.structures")  # the grid, and what passes between the parts

# An accelerator, a configuration language or a metric is met in so many files, so that it can be replaced.
CONFINED = {"torch_npu": 1, "apex": 1, "gin": 1, "pycocotools": 2}
HOMES = {"gin": "gfl/config.py"}

# infer/ takes these along without PyTorch; what runs a checkpoint or a program is imported when one is opened.
TORCH_FREE = (
    "gfl/data/transforms.py",
    "gfl/data/canvas.py",
    "gfl/engine/description.py",
    "gfl/engine/files.py",
    "gfl/engine/om_model.py",
    "gfl/engine/onnx_model.py",
    "gfl/engine/progress.py",
    "gfl/engine/providers.py",
    "gfl/engine/session.py",
    "gfl/inference/detect.py",
    "gfl/inference/draw.py",
    "gfl/inference/models.py",
    "gfl/inference/pictures.py",
    "gfl/inference/result.py",
    *(f"infer/{name}.py" for name in ("batches", "drawing", "merge", "pipeline", "recorder", "results", "run")),
    *(f"infer/{name}.py" for name in ("sources", "summary", "task")),
)
TORCH_FREE_PACKAGES = ("numpy", "cv2", "onnxruntime", "tqdm", "ais_bench")
LATE = ("gfl.inference.checkpoint", "gfl.inference.program")


def project_sources() -> dict[str, str]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(path: str, sources: Sources) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function, by dotted name; of a package's attribute,
    the package."""
    modules = {module_name(other) for other in sources}
    for node in ast.walk(ast.parse(sources[path])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = absolute(node, path)
            for alias in node.names:
                name = f"{package}.{alias.name}"
                yield name if name in modules or package == "gfl" else package
        elif isinstance(node, ast.Call) and imports_by_name(node.func) and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def absolute(node: ast.ImportFrom, path: str) -> str:
    """The dotted name of the package in `from X import`, relative ones resolved."""
    if node.level == 0:
        return node.module or ""
    package = path.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def imports_by_name(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def area(module: str) -> str | None:
    """The entry of LAYERS that a module belongs to; None for a program."""
    return next((entry for entry in LAYERS if within(module, entry)), None)


def layer(module: str) -> int:
    entry = area(module)
    return PROGRAMS if entry is None else LAYERS[entry]


def own(module: str) -> bool:
    return module != "gfl.__version__" and any(within(module, package) for package in PACKAGES)


def edges(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """(path, its module, a module of ours that it imports)."""
    for path in sources:
        yield from ((path, module_name(path), name) for name in imports(path, sources) if own(name))


def upward_imports(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        if layer(imported) > layer(module):
            yield f"{path} imports {imported}, which lies above it"


def sideways_imports_in_the_world(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        here, there = area(module), area(imported)
        if here in WORLD_IMPORTS and there in WORLD_IMPORTS and there not in (here, *WORLD_IMPORTS[here]):
            yield f"{path} imports {imported}, which stands beside it"


def sideways_imports_in_the_model(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        if not within(module, "gfl.model") or not within(imported, "gfl.model") or path == "gfl/model/detector.py":
            continue
        both_backbones = within(module, "gfl.model.backbones") and within(imported, "gfl.model.backbones")
        if not both_backbones and not any(within(imported, name) for name in MODEL_VOCABULARY):
            yield f"{path} imports {imported}: only gfl/model/detector.py joins the parts of the model"


def foreign_imports_in_tensors(sources: Sources) -> Iterator[str]:
    for path in sources:
        if within(module_name(path), "gfl.tensors"):
            for name in imports(path, sources):
                known = any(within(name, module) for module in ("torch", "einops", "gfl.errors", "gfl.tensors"))
                if not known and name.split(".")[0] not in sys.stdlib_module_names:
                    yield f"{path} imports {name}, expected torch and einops only"


def torch_where_inference_shares_code(sources: Sources) -> Iterator[str]:
    """Anything but what an .onnx needs: a program's own modules may stand for themselves elsewhere."""
    for path in TORCH_FREE:
        for name in imports(path, sources) if path in sources else ():
            known = any(within(name, package) for package in (*TORCH_FREE_PACKAGES, "gfl.errors", "infer", *LATE))
            free = f"{name.replace('.', '/')}.py" in TORCH_FREE or name == "gfl.__version__"
            if not known and not free and name.split(".")[0] not in sys.stdlib_module_names:
                yield f"{path} imports {name}, expected what an .onnx needs"


def spread_of_confined_packages(sources: Sources) -> Iterator[str]:
    for package, most in CONFINED.items():
        homes = [path for path in sources if any(within(name, package) for name in imports(path, sources))]
        if len(homes) > most or (package in HOMES and set(homes) - {HOMES[package]}):
            yield f"{package} is imported in {', '.join(homes)}: expected {HOMES.get(package, f'at most {most}')}"


def names_taken_out_of_functional(sources: Sources) -> Iterator[str]:
    """Apex patches the attributes of torch.nn.functional; a name taken out before keeps the old function."""
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "torch.nn.functional":
                yield f"{path}:{node.lineno} imports from torch.nn.functional: write F.name in full"


def asserts(sources: Sources) -> Iterator[str]:
    """python -O removes them."""
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assert):
                yield f"{path}:{node.lineno} asserts: raise InputError or another exception"


def export_side_paths(sources: Sources) -> Iterator[str]:
    for path, source in sources.items():
        if re.search(r"\bis_in_onnx_export\b|\bis_exporting\b", source):
            yield f"{path} has a side path for export: what is exported is what is tested"


def modules_beyond_the_adapter(sources: Sources) -> Iterator[str]:
    """The model is functions; one file adapts it to what PyTorch wants a Module for."""
    homes = [
        path
        for path, source in sources.items()
        if any(
            isinstance(node, ast.ClassDef)
            and any(ast.unparse(base) in ("Module", "nn.Module", "torch.nn.Module") for base in node.bases)
            for node in ast.walk(ast.parse(source))
        )
    ]
    if len(homes) > 1:
        yield f"subclasses of nn.Module in {', '.join(homes)}: expected one file"


# Each rule beside sources that break it.
RULES: list[tuple[Rule, Sources]] = [
    (upward_imports, {"gfl/tensors/boxes.py": "import gfl.model.head", "gfl/model/head.py": ""}),
    (upward_imports, {"gfl/model/head.py": "from gfl.data import coco", "gfl/data/coco.py": ""}),
    (upward_imports, {"gfl/engine/optim.py": "def f():\n    from gfl import load"}),
    (upward_imports, {"gfl/errors.py": "from gfl.tensors.boxes import iou", "gfl/tensors/boxes.py": ""}),
    (upward_imports, {"gfl/report/pages.py": "from ..train import main", "gfl/train.py": ""}),
    (upward_imports, {"gfl/data/coco.py": "import_module('infer.run')"}),
    (sideways_imports_in_the_world, {"gfl/data/coco.py": "from gfl.engine.device import pick"}),
    (sideways_imports_in_the_world, {"gfl/report/pages.py": "from gfl import config", "gfl/config.py": ""}),
    (sideways_imports_in_the_world, {"gfl/settings.py": "from gfl.config import read"}),
    (sideways_imports_in_the_model, {"gfl/model/head.py": "from gfl.model.losses import qfl"}),
    (sideways_imports_in_the_model, {"gfl/model/fpn.py": "from .backbones import resnet"}),
    (sideways_imports_in_the_model, {"gfl/model/structures.py": "import gfl.model.head", "gfl/model/head.py": ""}),
    (sideways_imports_in_the_model, {"gfl/model/backbones/resnet.py": "from gfl.model import fpn"}),
    (foreign_imports_in_tensors, {"gfl/tensors/boxes.py": "import numpy as np"}),
    (torch_where_inference_shares_code, {"gfl/data/canvas.py": "from torch import Tensor"}),
    (torch_where_inference_shares_code, {"gfl/data/transforms.py": "from gfl.data.loader import batches"}),
    (spread_of_confined_packages, {"gfl/engine/a.py": "import torch_npu", "infer/b.py": "from torch_npu import npu"}),
    (spread_of_confined_packages, {"gfl/a.py": "import apex", "gfl/b.py": "importlib.import_module('apex.amp')"}),
    (spread_of_confined_packages, {"gfl/train.py": "import gin"}),
    (spread_of_confined_packages, dict.fromkeys(("gfl/a.py", "gfl/b.py", "gfl/c.py"), "import pycocotools.coco")),
    (names_taken_out_of_functional, {"gfl/a.py": "from torch.nn.functional import conv2d"}),
    (asserts, {"gfl/a.py": "def f(x):\n    assert x"}),
    (export_side_paths, {"gfl/a.py": "if torch.onnx.is_in_onnx_export():\n    pass"}),
    (modules_beyond_the_adapter, dict.fromkeys(("gfl/a.py", "gfl/b.py"), "class A(nn.Module):\n    pass")),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_project_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(project_sources())) == []


@pytest.mark.parametrize(("rule", "sources"), RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_rule_finds_what_breaks_it(rule: Rule, sources: Sources) -> None:
    assert list(rule(sources)) != []


def test_rules_allow_what_the_layers_allow() -> None:
    sources = {
        "gfl/__init__.py": "def __getattr__(name):\n    from gfl.api import load\n    return load",
        "gfl/api.py": "from gfl import __version__\nimport gfl.model.detector, gfl.data.coco, gfl.engine.device",
        "gfl/train.py": "import gfl.config\nimport export.onnx\nfrom gfl import load",
        "gfl/config.py": "import gin\nfrom gfl.settings import RunConfig",
        "gfl/settings.py": "from gfl.model.detector import DetectorConfig",
        "gfl/engine/records.py": "from gfl import __version__\nimport gfl.settings\nfrom . import device",
        "gfl/engine/device.py": "import torch_npu\nimport tqdm\nfrom gfl.tensors import variables",
        "gfl/data/coco.py": "from pycocotools import mask\nfrom gfl.data import canvas",
        "gfl/data/canvas.py": "import math\nimport numpy as np\nfrom gfl.errors import InputError",
        "gfl/model/detector.py": "from gfl.model import head\nfrom gfl.model.backbones import resnet",
        "gfl/model/structures.py": "from torch import Tensor",
        "gfl/model/fpn.py": "from gfl.model.structures import Outputs",
        "gfl/model/head.py": "import torch.nn.functional as F\nfrom gfl.tensors.layers import conv",
        "gfl/model/backbones/resnet.py": "from gfl.model.backbones import blocks\nfrom .blocks import bottleneck",
        "gfl/model/backbones/blocks.py": "from gfl.errors import InputError",
        "gfl/tensors/layers.py": "import math\nimport einops\nfrom torch import Tensor\nfrom gfl.tensors import boxes",
        "gfl/tensors/boxes.py": "",
    }
    assert [offence for rule in dict.fromkeys(rule for rule, _ in RULES) for offence in rule(sources)] == []


def test_there_is_a_project_to_read() -> None:
    sources = project_sources()
    assert {"gfl/__init__.py", "gfl/errors.py", "gfl/model/detector.py", *TORCH_FREE} <= sources.keys()


def test_gin_folder_holds_no_python() -> None:
    assert sorted((ROOT / "gin").rglob("*.py")) == []


def test_every_package_on_disk_ships() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    packages = next(
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES"
    )
    on_disk = {module_name(path) for path in project_sources() if path.endswith("/__init__.py")}
    folders_with_code = {path.rpartition("/")[0].replace("/", ".") for path in project_sources()}
    assert folders_with_code <= on_disk
    assert on_disk | {"gfl.configs"} == set(packages)


def test_import_gfl_loads_nothing_heavy() -> None:
    program = "import sys; before = set(sys.modules); import gfl; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"gfl"}


def test_gfl_has_a_version() -> None:
    import gfl

    assert re.fullmatch(r"\d+\.\d+\.\d+", gfl.__version__)
