"""What the benchmarks found, as tables: for a terminal, for docs/benchmarks.md, and as JSON."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.measure import Timing, spread, versions
from gfl.files import to_json
from gfl.report.tables import aligned, text_width

TERMINAL_COLUMNS = 100
IDLE_LOAD = 0.3  # a load average above it says that other programs took time from the figures


class Table(NamedTuple):
    """Cells as text; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Found(NamedTuple):
    """What one benchmark found: tables for people, figures for the JSON."""

    tables: tuple[Table, ...]
    figures: Mapping[str, object]


class Report(NamedTuple):
    """What was found, and the command that finds it again."""

    command: str
    found: Found


def comparison(title: str, rows: Sequence[tuple[str, Timing, Timing]], *, other: str, note: str = "") -> Table:
    """Ours beside another form of the same; rows are (what, ours, the other)."""
    header = ("", "ours ms", "min - max", f"{other} ms", "min - max", f"{other} / ours")
    cells = tuple(
        (what, *spread(ours), *spread(plain), f"{plain.median / ours.median:.2f}") for what, ours, plain in rows
    )
    return Table(title, header, cells, note)


def plain_text(table: Table) -> str:
    """A table for a terminal."""
    note = textwrap.fill(table.note, TERMINAL_COLUMNS)
    return "\n".join(part for part in (table.title, aligned([table.header, *table.rows]), note) if part)


def markdown(table: Table) -> str:
    """A table for docs/, its columns aligned for those who read it as text."""
    widths = [max(3, *map(text_width, column)) for column in zip(table.header, *table.rows, strict=True)]
    lines = [
        "| "
        + " | ".join(cell + " " * (width - text_width(cell)) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in (table.header, *table.rows)
    ]
    rule = (
        "|"
        + "|".join(
            (":" if index == 0 else "-") + "-" * width + ("-" if index == 0 else ":")
            for index, width in enumerate(widths)
        )
        + "|"
    )
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
        f"{facts['torch_threads']} threads of torch; {load_text(facts)}\n"
        f"- Software: {software}, commit {made['commit'] or 'not known'}",
        "The forms of a table were run in turn (A B C A B C ...) in one process; a figure is the median of the rounds.",
    ]
    for report in reports:
        parts += [f"## `{report.command}`", *map(markdown, report.found.tables)]
    return "\n\n".join(parts) + "\n"


def load_text(facts: Mapping[str, object]) -> str:
    """How busy the machine was before the benchmark began."""
    load = facts["load_before"]
    if not isinstance(load, float):
        return "load average not known"
    return f"load average {load:.2f} before" + (
        " (the machine was busy: measure again when it is not)" if load > IDLE_LOAD else ""
    )


def as_json(reports: Sequence[Report], facts: Mapping[str, object]) -> str:
    """Everything measured, with the machine and the versions; times in seconds."""
    found = [{"command": report.command, "figures": report.found.figures} for report in reports]
    tree = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": facts, "versions": versions(), "benchmarks": found}
    return to_json(tree, indent=2) + "\n"
