"""What a bug report needs: `python -m gfl.doctor [--device auto|cpu|cuda|npu] [--json]`.

Versions, devices, optional packages, and which operators of a training step the device runs itself. What is broken is
reported with the reason, and the report goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from gfl.autoload import SWITCH
from gfl.doctor import installed
from gfl.record.environment import git_commit
from gfl.say import say
from gfl.version import VERSION

DEVICES = ("auto", "cpu", "cuda", "npu")
WIDTH = 110  # columns of the report
Section: TypeAlias = dict[str, object]  # a question -> its answer: a number, a text or a list of texts


def report(device: str) -> dict[str, Section]:
    """{title: section}; device is one of DEVICES."""
    return {
        "versions": attempt(versions),
        "machine": attempt(installed.machine),
        "beside packages": attempt(installed.surroundings),
        **torch_sections(device),
    }


def versions() -> Section:
    """The versions of this project, Python and every package that it may use."""
    commit = git_commit(Path(__file__).resolve().parents[2])
    version = VERSION + (f", commit {commit}" if commit else "")
    return {"gfl": version, "python": platform.python_version(), **installed.packages()}


def torch_sections(device: str) -> dict[str, Section]:
    """The sections about devices, torch's libraries and operators; only why, where torch cannot be imported."""
    try:
        from gfl.doctor import torch_report  # late: torch may be what is broken
    except Exception as error:
        hint = f"{SWITCH}=0 in the environment leaves out device packages such as torch_npu"
        return {"torch": {"broken": f"{installed.reason(error)}; {hint}"}}
    return {
        "devices": attempt(lambda: torch_report.devices(device)),
        "torch": attempt(torch_report.backends),
        "operators of a training step": attempt(lambda: torch_report.operators(device)),
    }


def attempt(section: Callable[[], Section]) -> Section:
    """The section, or why there is none."""
    try:
        return section()
    except Exception as error:  # whatever is broken here is what the report is for
        return {"broken": installed.reason(error)}


def lines(sections: Mapping[str, Section]) -> Iterator[str]:
    """The report as text: for each section its title, then questions and answers in two columns."""
    for title, section in sections.items():
        yield title
        width = max(len(name) for name in section)
        for name, answer in section.items():
            yield from answer_lines(name.ljust(width), answer)
        yield ""


def answer_lines(name: str, answer: object) -> Iterator[str]:
    """One answer, wrapped to WIDTH."""
    text = ", ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
    gap = " " * (len(name) + 4)
    # Names of operators and paths are not broken at their hyphens or in the middle.
    wrapped = textwrap.wrap(text, WIDTH - len(gap), break_on_hyphens=False, break_long_words=False) or ["none"]
    yield f"  {name}  {wrapped[0]}"
    yield from (gap + line for line in wrapped[1:])


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m gfl.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "--device", default="auto", metavar="|".join(DEVICES), help="whose operators are looked up (default auto)"
    )
    flags.add_argument("--json", action="store_true", help="print JSON instead of text")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 0, or 2 for an unknown device."""
    arguments = parser().parse_args(argv)
    if arguments.device not in DEVICES:
        expected = f"{', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
        say(f"error: got --device {arguments.device!r}, expected {expected}", error=True)
        return 2
    sections = report(arguments.device)
    say(json.dumps(sections, indent=2) if arguments.json else "\n".join(lines(sections)).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
