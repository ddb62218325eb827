"""Small pieces of Markdown: code, escaped text, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Text as code within a line; nothing for no text."""
    return f"`{text}`" if text else ""


def escaped(text: str) -> str:
    """Plain text as Markdown that shows the same characters; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]<>\\])", r"\\\1", part) for part in parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already, without columns that are empty in every row; a bar between backticks
    is no border there."""
    cells = [list(row) for row in rows]
    kept = [column for column in range(len(head)) if any(row[column] for row in cells)]
    lines = [[line[column] for column in kept] for line in ([*head], ["---"] * len(head), *cells)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " "))
    return "".join(part if part.startswith("`") else part.replace("|", "&#124;") for part in parts)


COMMAND = re.compile(r"([A-Z_]+=\S+ )?(bash|git|make|pip|python[\d.]*|source|torchrun|\.venv\S*) ")


def with_languages(text: str) -> str:
    """A page whose indented code stands between fences that name its language, by its first word: so it is coloured."""
    parts = re.split(r"(?ms)(^```.*?^```$)", text)
    parts[::2] = (re.sub(r"(?m)(\A|^\n)((?: {4}.*\n(?:\n(?= {4}))*)+)", _fenced, part) for part in parts[::2])
    return "".join(parts)


def _fenced(indented: re.Match[str]) -> str:
    lines = re.sub(r"(?m)^ {4}", "", indented[2])
    language = "python" if re.match(r"(from|import) ", lines) else "sh" if COMMAND.match(lines) else "text"
    return f"{indented[1]}```{language}\n{lines}```\n"
