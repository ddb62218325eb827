"""What a source file says of its classes and functions, read without importing it: no page needs PyTorch."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Field(NamedTuple):
    """A field of a dataclass or of a named tuple."""

    name: str
    kind: str  # its type, as it is written
    default: str  # '' where it has none
    meaning: str  # the comment beside it, or above it
    knob: str  # the name that its metadata gives its knob; '' for the field's own name in capitals


class SourceFile(NamedTuple):
    """A parsed file with its comments."""

    tree: ast.Module
    comments: dict[int, str]  # line, from 1 -> the comment that stands on it, without #
    alone: frozenset[int]  # lines that hold a comment and nothing else


@cache
def read_source(path: str) -> SourceFile:
    """Parse a file of the project, named from its root."""
    text = (ROOT / path).read_text(encoding="utf-8")
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("#").strip()
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    return SourceFile(ast.parse(text), comments, frozenset(alone))


def definition(source: SourceFile, name: str) -> ast.ClassDef | ast.FunctionDef:
    """The class or function of this name at the top of a file. Raises LookupError where there is none."""
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name and not is_overload(node):
            return node
    raise LookupError(f"got the name {name}, expected a class or function of the file; correct website/reference.py")


def class_named(source: SourceFile, name: str) -> ast.ClassDef:
    """The class of this name at the top of a file. Raises LookupError where there is none."""
    node = definition(source, name)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"got the function {name}, expected a class")
    return node


def is_overload(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether a definition is one of several signatures of the function that follows them."""
    return any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)


def fields_of(source: SourceFile, node: ast.ClassDef) -> list[Field]:
    """The annotated fields of a class with their comments, in their order."""
    found = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            default = "" if statement.value is None else ast.unparse(statement.value)
            knob = re.search(r"'knob': '(\w+)'", default)
            factory = re.search(r"default_factory=(?:\w+\.)*(\w+)", default)  # a configuration with its own defaults
            default = f"{factory[1]}()" if factory else re.sub(r"^field\(default=(.*?), \w+=.*\)$", r"\1", default)
            kind, meaning = ast.unparse(statement.annotation), _meaning(source, statement)
            found.append(Field(statement.target.id, kind, default, meaning, knob[1] if knob else ""))
    return found


def _meaning(source: SourceFile, statement: ast.AnnAssign) -> str:
    """The comment on the lines of a field; where there is none, the comment lines directly above it."""
    last = statement.end_lineno or statement.lineno
    beside = [source.comments[line] for line in range(statement.lineno, last + 1) if line in source.comments]
    if beside:
        return " ".join(beside)
    above: list[str] = []
    line = statement.lineno - 1
    while line in source.alone:
        above.insert(0, source.comments[line])
        line -= 1
    return " ".join(above)


def alternatives(kind: str) -> Iterator[str]:
    """The types of a union, and the values of a Literal, one by one: `int | Literal['auto']` -> int, 'auto'."""
    tree = ast.parse(kind, mode="eval").body
    waiting = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            waiting[:0] = [node.left, node.right]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            waiting[:0] = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        else:
            yield ast.unparse(node)
