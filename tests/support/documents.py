"""README.md and the pages of docs/ as data: their code, their links and headings, the commands that they give."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
OTHERS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = (*OTHERS, *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")))
PACKAGES = ("gfl", "export", "infer", "benchmarks", "website")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
FENCE = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")


class Block(NamedTuple):
    """A piece of code of a page."""

    page: str
    mark: str  # the HTML comment on the line before, without its dashes
    language: str  # '' where it is indented or says none
    text: str


class Command(NamedTuple):
    """A command line of a page, in words."""

    page: str
    words: tuple[str, ...]
    is_whole: bool  # whether it stands in a block and leaves nothing out: it can be given to its program

    @property
    def program(self) -> str:
        """A module of this project or of another, the path of a script, 'make', 'pytest' or another program's name."""
        return self._split()[0]

    @property
    def arguments(self) -> list[str]:
        """What follows the program's name."""
        return self._split()[1]

    def _split(self) -> tuple[str, list[str]]:
        first, *rest = self.words
        if re.fullmatch(r"(\.venv[\w-]*/bin/)?python3?", first):
            rest = rest[1:] if rest[:1] == ["-P"] else rest
            return (rest[1], rest[2:]) if rest[0] == "-m" else (rest[0], rest[1:])
        if first == "torchrun":
            start = rest.index("-m")
            return rest[start + 1], rest[start + 2 :]
        return first, rest


@cache
def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The code blocks of a page: those between fences, and those indented by four spaces after a blank line."""
    text = page_text(page)
    found = []
    for fence in FENCE.finditer(text):
        before = text[: fence.start()].rstrip("\n").rpartition("\n")[2]
        mark = re.fullmatch(r"<!-- (.*) -->", before)
        found.append(Block(page, mark[1] if mark else "", fence[1], fence[2]))
    for indented in re.finditer(r"(?m)(?:\A|^\n)((?: {4}.*\n(?:\n(?= {4}))*)+)", FENCE.sub("", text)):
        found.append(Block(page, "", "", re.sub(r"(?m)^ {4}", "", indented[1])))
    return found


def is_python(block: Block) -> bool:
    """Whether a block is Python, by what it says or, where it says nothing, by its first line."""
    return block.language == "python" or (not block.language and bool(re.match(r"(from|import) \w", block.text)))


def without_code(page: str) -> str:
    """The text of a page without its code: what holds links and headings."""
    text = FENCE.sub("", page_text(page))
    text = re.sub(r"(?m)(?:\A|^\n)(?: {4}.*\n(?:\n(?= {4}))*)+", "\n", text)
    return re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: "`" + re.sub(r"[\[\]()]", "", code[0][1:-1]) + "`", text)


def links(page: str) -> list[str]:
    """The targets of a page's links, in their order."""
    return LINK.findall(without_code(page))


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, by GitHub's rule; the second heading of a name ends in -1."""
    found: dict[str, int] = {}
    for title in re.findall(r"(?m)^#+ +(.+?)\s*$", FENCE.sub("", page_text(page))):
        plain = re.sub(r"[`*]", "", LINK.sub(lambda link: link[0].partition("](")[0].lstrip("!["), title)).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return set(found)


def commands(page: str) -> Iterator[Command]:
    """The command lines of a page: those of its blocks, and those in its text between backticks."""
    for block in blocks(page):
        if block.language in ("", "sh", "bash", "console", "shell") and not is_python(block):
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _commands_of(page, line, in_block=True)
    for code in inline_code(page):
        yield from _commands_of(page, code, in_block=False)


def inline_code(page: str) -> list[str]:
    """What stands between backticks in the text of a page."""
    found = re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", page_text(page)))
    return [code.replace("\n", " ") for code in found]


def _commands_of(page: str, line: str, *, in_block: bool) -> Iterator[Command]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe: it is no command
        return
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", ";", "|") or word.endswith(";"):
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):  # a variable of the environment
                part.pop(0)
            if is_command(part):
                yield Command(page, tuple(part), in_block and not any("..." in each for each in part))
            part = []
        else:
            part.append(word)


def is_command(words: list[str]) -> bool:
    """Whether words start one of the programs that a page may name and that can be looked at here."""
    if len(words) < 2:
        return False
    if re.fullmatch(r"(\.venv[\w-]*/bin/)?python3?", words[0]):
        rest = words[2:] if words[1] == "-P" else words[1:]
        return bool(rest) and ((rest[0] == "-m" and len(rest) > 1) or rest[0].endswith(".py"))
    if words[0] == "torchrun":
        return "-m" in words[:-1]
    return words[0] in ("make", "gfl", "pytest")
