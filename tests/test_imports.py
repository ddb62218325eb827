"""The floors and rooms of the project, read off its imports: rules take {path: source} and yield what breaks them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gfl", "export", "infer", "benchmarks")

Sources = Mapping[str, str]  # path relative to the root, with forward slashes -> source text
Rule = Callable[[Sources], Iterator[str]]

# The rooms, floor by floor from the ground up. A module stands in the room that begins its dotted name; what stands in
# none is a program, and so is a __main__. A room imports from the floors below it and from the rooms beside it that are
# named after it.
FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "gfl.errors": ("gfl.words",),
        "gfl.version": (),
        "gfl.shapes": (),
        "gfl.limits": (),
        "gfl.machine": (),
        "gfl.memory": ("gfl.errors",),
        "gfl.packages": ("gfl.errors",),
        "gfl.storage": ("gfl.errors", "gfl.packages"),
        "gfl.autoload": (),
        "gfl.class_names": ("gfl.errors",),
        "gfl.say": ("gfl.words",),
        "gfl.words": (),
        "gfl.signals": (),
        "gfl.program": ("gfl.errors", "gfl.say", "gfl.signals"),
        "gfl.files": ("gfl.errors",),
        "gfl.tensors": ("gfl.errors",),
    },
    {"gfl.model": ()},
    {"gfl.settings": ()},
    {"gfl.config": (), "gfl.data": (), "gfl.engine": ("gfl.config",), "gfl.report": ("gfl.data",)},
    {"gfl.record": (), "gfl.runtime": (), "gfl.operators": ()},
)
BESIDE = {room: beside for floor in FLOORS for room, beside in floor.items()}
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# benchmarks measures them
PROGRAMS = (
    "gfl.train",
    "gfl.evaluate",
    "gfl.describe",
    "gfl.card",
    "gfl.average",
    "gfl.doctor",
    "gfl.npu_check",
    "export",
    "infer",
)

# Within gfl.model the detector joins the parts, which otherwise know only the named tuples that pass between them.
MODEL_VOCABULARY = ("gfl.model.anchors", "gfl.model.structures")
MODEL_PARTS = {("gfl.model.prepare", "gfl.model.backbones"), ("gfl.model.postprocess", "gfl.model.nms")}

# An accelerator, a configuration language or a metric is met in so many files, so that it can be replaced.
KNOWN_TO_TENSORS = ("torch", "torchvision", "einops", "gfl.errors", "gfl.tensors")  # torchvision: where it works
SERVING = ("starlette", "uvicorn", "prometheus_client")
CONFINED = {"torch_npu": 1, "torchvision": 1, "apex": 1, "gin": 1, "pycocotools": 2, "hotcoco": 1, "fsspec": 1}
CONFINED |= dict.fromkeys(SERVING, 9) | {"ray": 2}
# A file, or a folder.
HOMES = {
    "gin": "gfl/config.py",
    "fsspec": "gfl/storage.py",
    "ray": "infer/bulk/",
    **dict.fromkeys(SERVING, "infer/serve/"),
}

# An .onnx runs without PyTorch: from these folders no import at the top of a file leads to it, by whatever way.
TORCH_FREE = ("infer", "gfl.runtime", "gfl.report")
RUNS_TORCH = "gfl.runtime.on_torch"  # imported inside functions, when a checkpoint or a program is opened
TORCH_FREE_PACKAGES = (
    "numpy",
    "cv2",
    "onnxruntime",
    "openvino",
    "rich",
    "ais_bench",
    "pycocotools",
    "hotcoco",
    "tqdm",
    "supervision",
    "trackers",
    "rasterio",
    "pyarrow",
    *SERVING,
    "ray",
)


MOST_IGNORES = 24  # lines on which mypy is silenced


def project_sources() -> dict[str, str]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@cache
def nodes_of(source: str, inside_functions: bool) -> tuple[ast.AST, ...]:
    """The nodes of a source; without those inside functions and under TYPE_CHECKING, what runs at its import."""
    tree = ast.parse(source)
    if inside_functions:
        return tuple(ast.walk(tree))
    found: list[ast.AST] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
    return tuple(found)


def imports(path: str, sources: Sources, *, inside_functions: bool = True) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function, by dotted name; of a package's attribute,
    the package."""
    modules = {module_name(other) for other in sources}
    for node in nodes_of(sources[path], inside_functions):
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


def room(module: str) -> str | None:
    """The room that a module stands in; None for a program, which a room's __main__ is too."""
    return None if module.endswith(".__main__") else next((name for name in FLOOR_OF if within(module, name)), None)


def floor(module: str) -> int:
    found = room(module)
    return len(FLOORS) if found is None else FLOOR_OF[found]


def own(module: str) -> bool:
    return any(within(module, package) for package in PACKAGES)


def edges(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """(path, its module, a module of ours that it imports)."""
    for path in sources:
        yield from ((path, module_name(path), name) for name in imports(path, sources) if own(name))


def upward_imports(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        if floor(imported) > floor(module):
            yield f"{path} imports {imported}, which lies above it"


def imports_from_the_room_beside(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        here, there = room(module), room(imported)
        if here and there and FLOOR_OF[here] == FLOOR_OF[there] and there not in (here, *BESIDE[here]):
            yield f"{path} imports {imported}, which stands beside it"


def programs_that_import_each_other(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        here, there = (next((name for name in PROGRAMS if within(each, name)), None) for each in (module, imported))
        if here and there and here != there:
            yield f"{path} imports {imported}: what two programs share belongs into a room below both"


def circles(sources: Sources) -> Iterator[str]:
    """Modules that import each other, directly or by way of others, at their top or inside functions."""
    graph: dict[str, set[str]] = {module_name(path): set() for path in sources}
    for _, module, imported in edges(sources):
        if imported in graph and imported != "gfl":  # gfl's face imports the runtime when it is first asked for it
            graph[module].add(imported)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    yield from (f"{module} imports itself by way of others" for module in graph if module in reachable(module))


def imports_between_parts_of_the_model(sources: Sources) -> Iterator[str]:
    for path, module, imported in edges(sources):
        if not within(module, "gfl.model") or not within(imported, "gfl.model") or path == "gfl/model/detector.py":
            continue
        both_backbones = within(module, "gfl.model.backbones") and within(imported, "gfl.model.backbones")
        part = any(within(module, user) and within(imported, used) for user, used in MODEL_PARTS)
        if not both_backbones and not part and not any(within(imported, name) for name in MODEL_VOCABULARY):
            yield f"{path} imports {imported}: only gfl/model/detector.py joins the parts of the model"


def foreign_imports_in_tensors(sources: Sources) -> Iterator[str]:
    for path in sources:
        if within(module_name(path), "gfl.tensors"):
            for name in imports(path, sources):
                known = any(within(name, module) for module in KNOWN_TO_TENSORS)
                if not known and name.split(".")[0] not in sys.stdlib_module_names:
                    yield f"{path} imports {name}, expected torch and einops only"


def is_torch_free(module: str) -> bool:
    return any(within(module, folder) for folder in TORCH_FREE) and not within(module, RUNS_TORCH)


def torch_in_torch_free_folders(sources: Sources) -> Iterator[str]:
    """What the imports at the top of the files of TORCH_FREE lead to, by whatever way, but for a few packages."""
    top = {module_name(path): set(imports(path, sources, inside_functions=False)) for path in sources}
    ways = {module: (module,) for module in top if is_torch_free(module)}
    waiting = list(ways)
    while waiting:
        module = waiting.pop()
        for name in top[module]:
            if name in top:
                if name not in ways:
                    ways[name] = (*ways[module], name)
                    waiting.append(name)
            elif name.split(".")[0] not in (*TORCH_FREE_PACKAGES, *sys.stdlib_module_names, *PACKAGES):
                yield f"{' -> '.join(ways[module])} imports {name}, expected what an .onnx needs"
    for path in sources:
        if is_torch_free(module_name(path)):
            for name in set(imports(path, sources)) - top[module_name(path)]:
                if within(name, "torch"):
                    yield f"{path} imports {name} inside a function: its place is {RUNS_TORCH}"


def spread_of_confined_packages(sources: Sources) -> Iterator[str]:
    for package, most in CONFINED.items():
        homes = [path for path in sources if any(within(name, package) for name in imports(path, sources))]
        if len(homes) > most or not all(home.startswith(HOMES.get(package, "")) for home in homes):
            yield f"{package} is imported in {', '.join(homes)}: expected {HOMES.get(package, f'at most {most}')}"


def names_taken_out_of_functional(sources: Sources) -> Iterator[str]:
    """Apex patches the attributes of torch.nn.functional; a name taken out before keeps the old function."""
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "torch.nn.functional":
                yield f"{path}:{node.lineno} imports from torch.nn.functional: write F.name in full"


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


def any_in_public_signatures(sources: Sources) -> Iterator[str]:
    """A caller learns nothing from Any, and mypy checks nothing against it."""
    for path, source in sources.items():
        for node in nodes_of(source, inside_functions=True):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                stated = [node.returns, *(each.annotation for each in arguments)]
                for part in (part for each in stated if each is not None for part in ast.walk(each)):
                    if isinstance(part, ast.Name) and part.id == "Any":
                        yield f"{path}:{node.lineno} {node.name} has Any in its signature: name the type, or object"


def ignores_without_a_reason(sources: Sources) -> Iterator[str]:
    """mypy's errors are silenced one at a time, each with the reason beside it, and seldom."""
    lines = [
        (f"{path}:{number}", line)
        for path, source in sources.items()
        for number, line in enumerate(source.splitlines(), start=1)
        if "# type: ignore" in line
    ]
    yield from (
        f"{where} ignores without a reason" for where, line in lines if not re.search(r"ignore\[.+\]  # \w", line)
    )
    if len(lines) > MOST_IGNORES:
        yield f"{len(lines)} lines ignore mypy, expected at most {MOST_IGNORES}"


# Each rule beside sources that break it.
RULES: list[tuple[Rule, Sources]] = [
    (upward_imports, {"gfl/tensors/boxes.py": "import gfl.model.head", "gfl/model/head.py": ""}),
    (upward_imports, {"gfl/model/head.py": "from gfl.data import coco", "gfl/data/coco.py": ""}),
    (imports_from_the_room_beside, {"gfl/errors.py": "from gfl.tensors.boxes import iou", "gfl/tensors/boxes.py": ""}),
    (upward_imports, {"gfl/report/pages.py": "from ..train import main", "gfl/train.py": ""}),
    (upward_imports, {"gfl/data/coco.py": "import_module('infer.run')"}),
    (imports_from_the_room_beside, {"gfl/data/coco.py": "from gfl.engine.device import pick"}),
    (upward_imports, {"gfl/settings.py": "from gfl.config import read"}),
    (imports_between_parts_of_the_model, {"gfl/model/head.py": "from gfl.model.losses import qfl"}),
    (imports_between_parts_of_the_model, {"gfl/model/structures.py": "import gfl.model.head", "gfl/model/head.py": ""}),
    (imports_between_parts_of_the_model, {"gfl/model/backbones/resnet.py": "from gfl.model import fpn"}),
    (foreign_imports_in_tensors, {"gfl/tensors/boxes.py": "import numpy as np"}),
    (imports_from_the_room_beside, {"gfl/runtime/open.py": "from gfl.record import lock", "gfl/record/lock.py": ""}),
    (imports_from_the_room_beside, {"gfl/files.py": "import gfl.tensors.boxes", "gfl/tensors/boxes.py": ""}),
    (programs_that_import_each_other, {"infer/run.py": "from export.check import violations", "export/check.py": ""}),
    (programs_that_import_each_other, {"gfl/train.py": "from gfl import evaluate", "gfl/evaluate.py": ""}),
    (circles, {"gfl/data/a.py": "import gfl.data.b", "gfl/data/b.py": "def f():\n    import gfl.data.a"}),
    (torch_in_torch_free_folders, {"gfl/runtime/detect.py": "from torch import Tensor"}),
    (torch_in_torch_free_folders, {"infer/run.py": "import gfl.data.a", "gfl/data/a.py": "import torch"}),
    (torch_in_torch_free_folders, {"gfl/report/page.py": "def f():\n    import torch"}),
    (spread_of_confined_packages, {"gfl/engine/a.py": "import torch_npu", "infer/b.py": "from torch_npu import npu"}),
    (spread_of_confined_packages, {"gfl/a.py": "import apex", "gfl/b.py": "importlib.import_module('apex.amp')"}),
    (spread_of_confined_packages, {"gfl/train.py": "import gin"}),
    (spread_of_confined_packages, {"infer/run.py": "from starlette.requests import Request"}),
    (spread_of_confined_packages, dict.fromkeys(("gfl/a.py", "gfl/b.py", "gfl/c.py"), "import pycocotools.coco")),
    (names_taken_out_of_functional, {"gfl/a.py": "from torch.nn.functional import conv2d"}),
    (any_in_public_signatures, {"gfl/a.py": "def f(x: dict[str, Any]) -> None:\n    pass"}),
    (ignores_without_a_reason, {"gfl/a.py": "x = f()  # type: ignore[misc]"}),
    (ignores_without_a_reason, {"gfl/a.py": "x = f()  # type: ignore[misc]  # untyped\n" * 25}),
    (modules_beyond_the_adapter, dict.fromkeys(("gfl/a.py", "gfl/b.py"), "class A(nn.Module):\n    pass")),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_project_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(project_sources())) == []


@pytest.mark.parametrize(("rule", "sources"), RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_rule_finds_what_breaks_it(rule: Rule, sources: Sources) -> None:
    assert list(rule(sources)) != []


def test_rules_allow_what_the_floors_allow() -> None:
    sources = {
        "gfl/__init__.py": "def __getattr__(name):\n    from gfl.runtime.detect import load\n    return load",
        "gfl/version.py": "",
        "gfl/train.py": "import gfl.config\nimport gfl.record.lock\nfrom gfl import load",
        "gfl/config.py": "import gin\nfrom gfl.settings import RunConfig",
        "gfl/settings.py": "from gfl.model.detector import DetectorConfig",
        "gfl/record/lock.py": "from gfl.version import VERSION\nimport gfl.settings\nimport gfl.engine.device",
        "gfl/runtime/detect.py": "import numpy\nimport gfl.data.canvas\ndef f():\n    import gfl.runtime.on_torch.pt",
        "gfl/runtime/on_torch/pt.py": "import torch\nimport gfl.engine.device, gfl.model.detector",
        "gfl/report/draw.py": "import cv2\nfrom gfl.data.canvas import Canvas",
        "gfl/engine/device.py": "import torch_npu\nfrom gfl.tensors import variables\nimport gfl.config",
        "gfl/data/coco.py": "from pycocotools import mask\nfrom gfl.data import canvas",
        "gfl/data/canvas.py": "import math\nimport numpy as np\nfrom gfl.errors import InputError",
        "gfl/model/detector.py": "from gfl.model import head\nfrom gfl.model.backbones import resnet",
        "gfl/model/structures.py": "from torch import Tensor",
        "gfl/model/fpn.py": "from gfl.model.structures import Outputs",
        "gfl/model/prepare.py": "from gfl.model.backbones import resnet",
        "gfl/model/head.py": "import torch.nn.functional as F\nfrom gfl.tensors.layers import conv",
        "gfl/model/backbones/resnet.py": "from gfl.model.backbones import blocks\nfrom .blocks import bottleneck",
        "gfl/model/backbones/blocks.py": "from gfl.errors import InputError",
        "gfl/tensors/layers.py": "import math\nimport einops\nfrom torch import Tensor\nfrom gfl.tensors import boxes",
        "gfl/tensors/boxes.py": "",
        "benchmarks/infer.py": "import infer.run\nimport export.onnx",
    }
    assert [offence for rule in dict.fromkeys(rule for rule, _ in RULES) for offence in rule(sources)] == []


def test_every_room_is_there() -> None:
    modules = {module_name(path) for path in project_sources()}
    assert {*FLOOR_OF, *PROGRAMS, RUNS_TORCH} <= modules


def test_no_folder_holds_more_than_its_share_of_the_lines() -> None:
    lines: dict[str, int] = {}
    for path, source in project_sources().items():
        if not path.startswith("benchmarks/"):
            folder = path.rpartition("/")[0]
            lines[folder] = lines.get(folder, 0) + source.count("\n")
    assert max(lines.values()) <= 0.15 * sum(lines.values())


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
    assert (on_disk - {"benchmarks"}) | {"gfl.configs"} == set(packages)


def test_import_gfl_loads_nothing_heavy() -> None:
    program = "import sys; before = set(sys.modules); import gfl; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"gfl"}
