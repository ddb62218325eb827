"""The page of the Python API, made from signatures, docstrings and fields as they stand in the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

from website.markdown import code, escaped, table
from website.source import SourceFile, alternatives, definition, fields_of, is_overload, read_source

WIDTH = 100  # of a signature on one line
SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example", "Examples", "Reference")
OPERATORS = ("__call__", "__getitem__", "__iter__", "__len__")  # that a reader is told of, where they have a docstring


class Chapter(NamedTuple):
    """A part of the page: what it is about, and (file, its public names)."""

    title: str
    about: str
    names: tuple[tuple[str, tuple[str, ...]], ...]


CHAPTERS = (
    Chapter(
        "Detecting with a trained model",
        "`from gfl import load` opens every form of a model. None of this needs PyTorch for an .onnx.",
        (
            ("gfl/runtime/detect.py", ("load", "Detect")),
            ("gfl/runtime/result.py", ("Result",)),
            ("gfl/errors.py", ("InputError",)),
        ),
    ),
    Chapter(
        "The detector as functions",
        "`from gfl.model import detector`: pure functions over a nested dict of tensors, whose dotted paths are "
        "mmdetection's state-dict keys.",
        (
            (
                "gfl/model/detector.py",
                ("init", "is_frozen", "freeze", "normalise", "forward", "loss", "loss_of_outputs", "predict"),
            ),
            ("gfl/model/prepare.py", ("prepare", "Prepared", "Constants")),
            ("gfl/model/anchors.py", ("make_grid", "Grid", "padded_sizes")),
            ("gfl/model/structures.py", ("Batch", "Outputs", "Assignment", "Detections")),
        ),
    ),
    Chapter(
        "The papers' formulas",
        "The functions that the papers define, on tensors of any shape that their docstrings allow.",
        (
            ("gfl/tensors/distribution.py", ("integral", "mean_and_std")),
            ("gfl/model/head.py", ("dgqp",)),
            ("gfl/model/losses.py", ("qfl", "dfl")),
            ("gfl/tensors/boxes.py", ("iou_and_giou", "boxes_from_distances", "distances_from_boxes")),
            ("gfl/model/assign.py", ("assign",)),
        ),
    ),
    Chapter(
        "Settings of the model",
        "Frozen dataclasses with the paper's R50 as defaults. A run file or a command binds a field by its class: "
        "`--gin_bindings 'HeadConfig.convs = 2'`.",
        (
            ("gfl/model/detector.py", ("DetectorConfig",)),
            ("gfl/model/backbones/resnet.py", ("ResNetConfig",)),
            ("gfl/model/fpn.py", ("FPNConfig",)),
            ("gfl/model/head.py", ("HeadConfig",)),
            ("gfl/model/assign.py", ("ATSSConfig",)),
            ("gfl/model/losses.py", ("LossConfig",)),
            ("gfl/model/postprocess.py", ("PredictConfig",)),
        ),
    ),
    Chapter(
        "Settings of a run",
        "What the [knobs](knobs.md) set, as Python has it.",
        (("gfl/settings.py", ("RunConfig", "DataConfig", "OptimConfig")), ("gfl/config.py", ("read_run", "ParsedRun"))),
    ),
)


def reference_page() -> str:
    """The page. Raises LookupError where a name is no longer in its file, ValueError where it has no docstring."""
    parts = [
        "# Python API\n\nMade from the signatures and docstrings of the code, whose examples the tests run.\n"
        "Shapes are written with letters: B image, A anchor, G box slot, K class, E the four edges (left, top, right, "
        "bottom), R the bins of an edge's distribution.\n"
    ]
    for chapter in CHAPTERS:
        parts += [f"## {chapter.title}\n\n{chapter.about}\n"]
        for path, names in chapter.names:
            source = read_source(path)
            parts += [entry(source, definition(source, name), path) for name in names]
    return "\n".join(parts)


def entry(source: SourceFile, node: ast.ClassDef | ast.FunctionDef, path: str) -> str:
    """The Markdown of one public name."""
    module = path.removesuffix(".py").replace("/", ".")
    place = "`from gfl import load`" if node.name == "load" else f"`{module}.{node.name}`"
    parts = [f"### {node.name}\n", f"{place}\n"]
    if isinstance(node, ast.FunctionDef):
        return "\n".join([*parts, f"```python\n{signature(node)}\n```\n", prose(docstring(node, node.name))])
    parts.append(prose(docstring(node, node.name)))
    if fields := [field for field in fields_of(source, node) if not field.name.startswith("_")]:
        rows = [
            (
                code(field.name),
                " or ".join(map(code, alternatives(field.kind))),
                code(field.default),
                escaped(field.meaning),
            )
            for field in fields
        ]
        parts += [table(("Field", "Type", "Default", "Meaning"), rows), ""]
    for method in public_methods(node):
        parts += [f"#### {node.name}.{method.name}\n".replace("_", r"\_")]
        if is_property(method):
            parts += [f"A property: {code(ast.unparse(method.returns) if method.returns else '')}\n"]
        else:
            parts += [f"```python\n{signature(method)}\n```\n"]
        parts += [prose(docstring(method, f"{node.name}.{method.name}"))]
    return "\n".join(parts)


def public_methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The methods and properties of a class that its users call and that have a docstring."""
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or is_overload(method) or not ast.get_docstring(method):
            continue
        if not method.name.startswith("_") or method.name in OPERATORS:
            yield method


def is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) in ("property", "cached_property") for decorator in node.decorator_list)


def docstring(node: ast.ClassDef | ast.FunctionDef, name: str) -> str:
    """The docstring of a public name. Raises ValueError where it has none."""
    text = ast.get_docstring(node)
    if not text:
        raise ValueError(
            f"got {name} without a docstring, expected one, for it is on the page of the Python API; write it"
        )
    return text


def signature(node: ast.FunctionDef) -> str:
    """The call of a function with the types of its arguments; an argument a line where one line is too long."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    shown = [_argument(each, value) for each, value in zip(plain, defaults, strict=True) if each.arg != "self"]
    if arguments.vararg:
        shown.append(f"*{_argument(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += [_argument(each, value) for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(shown)}){result}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{node.name}(", *(f"    {each}," for each in shown), f"){result}"])


def _argument(node: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(node.annotation)}" if node.annotation else ""
    value = "" if default is None else f" = {ast.unparse(default)}" if kind else f"={ast.unparse(default)}"
    return f"{node.arg}{kind}{value}"


def prose(text: str) -> str:
    """A docstring as Markdown: paragraphs, sections with lists of arguments, examples as code."""
    parts: list[str] = []
    for title, body in _sections(text):
        if title:
            parts.append(f"**{title}**\n")
        parts += [_block(block, is_list=title in ("Args", "Raises")) for block in re.split(r"\n{2,}", body) if block]
    return "\n".join(parts)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(title, body) of a docstring; the part before the first title has none."""
    title = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            yield title, inspect.cleandoc("\n" + "\n".join(lines))
            title, lines = line.rstrip(":"), []
        else:
            lines.append(line)
    yield title, inspect.cleandoc("\n" + "\n".join(lines))


def _block(block: str, *, is_list: bool) -> str:
    if block.startswith(">>>"):
        shown = re.sub(r" +# doctest: \+\w+", "", block)
        return f"```pycon\n{shown}\n```\n"
    if block.startswith("- "):
        return "\n".join(escaped(line) for line in block.splitlines()) + "\n"
    if is_list or re.match(r"\w+: ", block):
        return _entries(block)
    return escaped(block) + "\n"


def _entries(block: str) -> str:
    """`name: meaning` a line, whose further lines are indented or hold no name."""
    lines: list[str] = []
    for line in block.splitlines():
        found = re.match(r"((?:\w+, )*\w+): (.*)", line)
        if found and not line.startswith(" "):
            lines.append(f"- `{found[1]}`: {escaped(found[2])}")
        elif lines:
            lines.append(f"  {escaped(line.strip())}")
        else:
            lines.append(escaped(line.strip()))
    return "\n".join(lines) + "\n"
