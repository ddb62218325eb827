"""The findings of the benchmarks as tables, for a terminal and for docs/benchmarks.md, and as JSON."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.machine_use import Use
from benchmarks.measure import Timing, spread, versions
from gfl.files import to_json
from gfl.report.tables import aligned, text_width

TERMINAL_COLUMNS = 100
KEPT = "<!-- What follows is of programs that are run apart; `make bench` keeps it. -->"


class Table(NamedTuple):
    """Cells as text; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Findings(NamedTuple):
    """The results of one benchmark: tables for people, figures for the JSON."""

    tables: tuple[Table, ...]
    figures: Mapping[str, object]


class Report(NamedTuple):
    """The findings of a benchmark, the command that measures them again, and how busy the machine was before."""

    command: str
    findings: Findings
    use: Use


def comparison(title: str, rows: Sequence[tuple[str, Timing, Timing]], *, other: str, note: str = "") -> Table:
    """A table of our form beside another; rows are (name, timing of ours, timing of the other)."""
    header = ("", "ours ms", "min - max", f"{other} ms", "min - max", f"{other} / ours")
    cells = tuple(
        (name, *spread(ours), *spread(plain), f"{plain.median / ours.median:.2f}") for name, ours, plain in rows
    )
    return Table(title, header, cells, note)


def plain_text(table: Table) -> str:
    """A table for a terminal."""
    note = textwrap.fill(table.note, TERMINAL_COLUMNS)
    return "\n".join(part for part in (table.title, aligned([table.header, *table.rows]), note) if part)


def markdown(table: Table) -> str:
    """A table for docs/: the first column to the left, the others to the right, padded for those who read the text."""
    widths = [max(3, *map(text_width, column)) for column in zip(table.header, *table.rows, strict=True)]
    rows = [
        [cell + " " * (width - text_width(cell)) for cell, width in zip(row, widths, strict=True)]
        for row in (table.header, *table.rows)
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    rule = "|".join(["", ":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([f"### {table.title}", "", lines[0], rule, *lines[1:], *(["", table.note] if table.note else [])])


def page(reports: Sequence[Report], facts: Mapping[str, object], command: str) -> str:
    """The reports as a Markdown page, with the command that wrote it, the machine and the day."""
    made = versions()
    software = ", ".join(f"{name} {version}" for name, version in made.items() if name != "commit")
    parts = [
        "# Benchmarks",
        f"Written by `{command}` on {time.strftime('%Y-%m-%d')}; the numbers are not edited by hand. A section names "
        "the command that measures its figures again.",
        f"- Machine: {facts['cpu']} ({facts['instructions']}), {facts['cores']} cores, "
        f"{facts['torch_threads']} threads of torch\n"
        f"- Software: {software}, commit {made['commit'] or 'not known'}",
        "The forms of a table were run in turn (A B C A B C ...) in one process; a figure is the median of the rounds.",
    ]
    for report in reports:
        parts += [f"## `{report.command}`", f"Before it: {report.use}.", *map(markdown, report.findings.tables)]
    return "\n\n".join(parts) + "\n"


def kept_part(page_before: str) -> str:
    """What a page keeps when it is written again: from the line KEPT on, results of programs that are run apart."""
    start = page_before.find(KEPT)
    return "" if start < 0 else "\n" + page_before[start:]


def as_json(reports: Sequence[Report], facts: Mapping[str, object]) -> str:
    """Everything measured, with the machine and the versions; times in seconds."""
    benchmarks = [
        {"command": report.command, "use_before": report.use._asdict(), "figures": report.findings.figures}
        for report in reports
    ]
    date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    content = {"date": date, "machine": facts, "versions": versions(), "benchmarks": benchmarks}
    return to_json(content, indent=2) + "\n"
