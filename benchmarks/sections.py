"""Benchmarks whose tables stand in a part of a page, between two lines that name it; the rest is a person's.

What they measure may need packages that exclude each other: each name can have a Python of its own.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from benchmarks.command_line import command_line, report_flags, use_before, write_reports
from benchmarks.measure import machine
from benchmarks.tables import Findings, Report, markdown
from gfl.errors import InputError
from gfl.files import write_atomic

ABSOLUTE = re.compile(r"(?<![^\s=])/(?:[^\s/]+/)*([^\s/]+)")  # a path of this machine, which is nobody's business


def section_flags(program: str, description: str | None, section: str) -> argparse.ArgumentParser:
    """A parser with the flags of a benchmark that writes a section."""
    flags = report_flags(program, description)
    flags.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="the Python that runs NAME")
    flags.add_argument(
        "--section", default=section, metavar="NAME", help="of the page --output, between lines that name it"
    )
    return flags


def pythons_of(words: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """The Python of each name that has one; InputError for names that are not known and programs that are not there."""
    pythons = dict(each.partition("=")[::2] for each in words)
    for name, path in pythons.items():
        if name not in known or shutil.which(path) is None:
            raise InputError(
                f"got --python {name}={path}, expected NAME=PATH with one of {', '.join(known)} and a program"
            )
    return pythons


def run_section(flags: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Findings]) -> int:
    """The main function of such a benchmark; returns the exit status."""
    arguments = flags.parse_args()
    page, arguments.output = arguments.output, None

    def report() -> list[Report]:
        if page is not None:
            parts_of(page, arguments.section)  # before an hour of measuring
        use = use_before(arguments)
        found = Report(command_line(), measure(arguments), use)
        if page is not None:
            place(page, arguments.section, text_of(found))
        return [found]

    return write_reports(arguments, report)


def text_of(report: Report) -> str:
    """The tables as Markdown, with the command that wrote them, the day and the machine."""
    facts = machine()
    command, rest, _ = ABSOLUTE.sub(r"\1", report.command).partition(" --flags ")  # which a model of its own needs
    command += f"{rest}..." if rest else ""
    told = f"Written by `{command}` on {time.strftime('%Y-%m-%d')}: {facts['cpu']}; before it {report.use}."
    return "\n\n".join([*map(markdown, report.findings.tables), told])


def parts_of(path: Path, section: str) -> tuple[str, str]:
    """A page up to the line that begins a section, and from the line that ends it; InputError without them."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    start, end = (f"<!-- {mark} {section} -->" for mark in ("begin", "end"))
    if page.count(start) != 1 or page.count(end) != 1:
        raise InputError(f"{path} needs one line {start!r} and one {end!r}, between which the table is written")
    before, _, rest = page.partition(start)
    return before + start, end + rest.partition(end)[2]


def place(path: Path, section: str, text: str) -> None:
    """Put the text into a section of a page, in place of what is there."""
    before, after = parts_of(path, section)
    write_atomic(path, f"{before}\n\n{text}\n\n{after}")
