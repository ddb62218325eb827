"""The report that a person sends back: a Markdown page that ends with all figures as JSON, and a file of that JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.files import to_json, write_atomic
from gfl.version import VERSION

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
REPORT = "npu_check_report"
Figures = Mapping[str, object]


class Outcome(NamedTuple):
    """The outcome of one part."""

    part: str
    status: str  # PASSED, FAILED or SKIPPED
    reason: str  # why it failed or was skipped; empty where it passed
    figures: Figures
    seconds: float
    commands: tuple[str, ...]
    tail: str  # of the log of the command that failed


class Report(NamedTuple):
    """Everything that a check knows so far."""

    device: str  # cpu | cuda | npu
    info: Mapping[str, object]  # the device's name, how many there are, onnxruntime's providers
    started: str
    outcomes: list[Outcome]
    left: list[str]  # parts that have not run yet

    def counts(self) -> dict[str, int]:
        """How many parts passed, failed and were skipped."""
        statuses = [outcome.status for outcome in self.outcomes]
        return {status: statuses.count(status) for status in (PASSED, FAILED, SKIPPED)}

    def counts_text(self) -> str:
        """'10 passed, 0 failed, 2 skipped'."""
        return ", ".join(f"{count} {status}" for status, count in self.counts().items())


def write_report(folder: Path, report: Report) -> None:
    """Write both files. It is called after each part, so that a crash loses nothing that is known."""
    log = folder / "doctor.log"
    doctor = log.read_text(encoding="utf-8", errors="backslashreplace").strip() if log.is_file() else ""
    content = {
        "gfl": VERSION,
        "device": report.device,
        **report.info,
        "started": report.started,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "counts": report.counts(),
        "parts": [outcome._asdict() for outcome in report.outcomes],
        "not_run": report.left,
        "doctor": doctor,
    }
    figures = to_json(content, indent=2) + "\n"
    write_atomic(folder / f"{REPORT}.json", figures)
    write_atomic(folder / f"{REPORT}.md", f"{markdown(report, doctor)}\n## All figures\n\n```json\n{figures}```\n")


def markdown(report: Report, doctor: str) -> str:
    """The page: a table of the parts, then each with its figures, commands and, if it failed, the end of its log.

    doctor: what gfl.doctor printed; empty where it has not run.
    """
    parts = [
        f"# Check of {report.info.get('device_name', report.device)}",
        f"gfl {VERSION}, DEVICE={report.device}, started {report.started}: {report.counts_text()}."
        + (f" Not run yet: {', '.join(report.left)}." if report.left else ""),
        _table(report.outcomes),
    ]
    for outcome in report.outcomes:
        figures = "\n".join(f"- {name}: {figure_text(value)}" for name, value in outcome.figures.items())
        blocks = [f"```\n{text}\n```" for text in ("\n".join(outcome.commands), outcome.tail) if text]
        parts += [f"## {outcome.part}: {outcome.status}", outcome.reason, figures, *blocks]
    if doctor:
        parts.append(f"## What gfl.doctor says\n\n```\n{doctor}\n```")
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = ["| part | | seconds | |", "|:---|:---|---:|:---|"]
    for outcome in outcomes:
        text = outcome.reason.replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {outcome.part} | {outcome.status} | {outcome.seconds:.0f} | {text} |")
    return "\n".join(rows)


def figure_text(value: object) -> str:
    """A figure, or a container of figures, for people to read."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {figure_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(figure_text, value))
    return str(value)
