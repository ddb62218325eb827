"""The page of the knobs, made from gin/base.gin and gfl/settings.py as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from website.markdown import code, escaped, table
from website.source import ROOT, Field, alternatives, class_named, fields_of, read_source

SETTINGS = "gfl/settings.py"
OWNERS = ("RunConfig", "DataConfig", "OptimConfig")
KNOB = re.compile(r"^([A-Z][A-Z_]*) = ((?:'[^']*'|[^#'])*?)\s*(?:# ?(.*))?$")

HEAD = """# Knobs

Every knob of a run, read from `gin/base.gin` and `gfl/settings.py` when this page was made. A run file sets knobs with
lines such as `LR = 0.005`; a command sets them with `--gin_bindings 'LR = 0.005'`, and the command wins. Text needs
quotes inside the quotes of the shell: `--gin_bindings "DEVICE = 'cpu'"`. A mistyped knob is refused with the nearest
name, a value of another type with the type that is expected. `--print_config` prints what a run would use.

What has no knob is bound by the name of its setting, `--gin_bindings 'HeadConfig.convs = 2'`: the
[Python API](reference.md#settings-of-the-model) lists these with their defaults. The values that the run files set
are in the last column; [Run files](run-files.md) shows the files themselves.
"""


class Knob(NamedTuple):
    """A knob as gin/base.gin has it."""

    name: str
    default: str
    meaning: str
    section: str


def read_knobs(text: str) -> list[Knob]:
    """The knobs of a gin file with their comments and the section that they stand in, in their order."""
    knobs: list[Knob] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("# ----"):
            section = line.strip("#- ")
        elif found := KNOB.match(line):
            knobs.append(Knob(found[1], found[2].strip(), (found[3] or "").strip(), section))
        elif knobs and re.match(r"^\s+#", line):  # a comment goes on
            last = knobs[-1]
            knobs[-1] = last._replace(meaning=f"{last.meaning} {line.strip().lstrip('#').strip()}")
    return knobs


def settings_by_knob() -> dict[str, Field]:
    """Knob -> the field of gfl/settings.py that it sets."""
    source = read_source(SETTINGS)
    fields = [field for owner in OWNERS for field in fields_of(source, class_named(source, owner))]
    # A field that is a configuration itself has no knob: its own fields have.
    return {field.knob or field.name.upper(): field for field in fields if not field.kind.endswith("Config")}


def knobs_page() -> str:
    """The page. Raises ValueError where a knob has no setting, or a setting no knob."""
    knobs = read_knobs((ROOT / "gin" / "base.gin").read_text(encoding="utf-8"))
    settings = settings_by_knob()
    if differing := {knob.name for knob in knobs} ^ set(settings):
        raise ValueError(
            f"got {', '.join(sorted(differing))} in only one of gin/base.gin and {SETTINGS}, expected in both; "
            "add what is missing"
        )
    sections = dict.fromkeys(knob.section for knob in knobs)
    elsewhere = set_in_run_files()
    parts = [HEAD]
    for section in sections:
        rows = [
            _row(knob, settings[knob.name], elsewhere.get(knob.name, {})) for knob in knobs if knob.section == section
        ]
        parts += [
            f"## {section[:1].upper()}{section[1:]}\n",
            table(("Knob", "What it does", "Default", "Takes", "In run files"), rows),
            "",
        ]
    return "\n".join(parts)


def set_in_run_files() -> dict[str, dict[str, str]]:
    """Knob -> the run files that set it, and to what: themselves, or by a model or schedule that they include."""
    found: dict[str, dict[str, str]] = {}
    for name, text in gin_files("*.gin"):
        for knob in read_knobs(_with_parts(text, ROOT / "gin")):
            found.setdefault(knob.name, {})[name] = knob.default
    return found


def gin_files(pattern: str) -> Iterator[tuple[str, str]]:
    """The name, from gin/ on, and the text of each file of that pattern but base.gin."""
    for path in sorted((ROOT / "gin").glob(pattern)):
        if path.name != "base.gin":
            yield path.relative_to(ROOT / "gin").as_posix(), path.read_text(encoding="utf-8")


def _with_parts(text: str, folder: Path) -> str:
    """A run file's text with the models and schedules that it includes in their places."""

    def part(found: re.Match[str]) -> str:
        path = folder / found[1]
        return found[0] if path.parent == ROOT / "gin" else _with_parts(path.read_text(encoding="utf-8"), path.parent)

    return re.sub(r"(?m)^include '(.*)'$", part, text)


def run_files_page() -> str:
    """The page that shows the run files whole."""
    head = (
        "# Run files\n\nThe files of `gin/`, as they ship with the package: `--gin_file r50.gin` finds them from any "
        "folder. A file of your own may `include` one of them and set what differs. [Recipes](recipes.md) says what "
        "each is for. The published recipes are put together of a file in `models/` and one in `schedules/`.\n"
    )
    files = [*gin_files("*.gin"), *gin_files("*/*.gin")]
    return "\n".join([head, *(f"## {name}\n\n```python\n{text.rstrip()}\n```\n" for name, text in files)])


def _row(knob: Knob, field: Field, elsewhere: Mapping[str, str]) -> tuple[str, ...]:
    takes = " or ".join(code(_spelt(each)) for each in alternatives(field.kind))
    values = "<br>".join(f"{name.removesuffix('.gin')}: {code(value)}" for name, value in elsewhere.items())
    return code(knob.name), escaped(knob.meaning or field.meaning), code(knob.default), takes, values


def _spelt(kind: str) -> str:
    """A type without the names that only the code knows."""
    kind = kind.replace("Canvas", "tuple[int, int]")
    return re.sub(r"Literal\[(.*?)\]", lambda values: values[1].replace(", ", " | "), kind)
