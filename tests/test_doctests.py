"""The examples in the docstrings of gfl, export and infer, run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for package in ("gfl", "export", "infer") for path in (ROOT / package).rglob("*.py")]
WITH_EXAMPLES = [path for path in FILES if re.search(r"(?m)^ *>>> ", path.read_text(encoding="utf-8"))]
EXAMPLES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in WITH_EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_what_people_import_has_examples() -> None:
    assert {"gfl.runtime.detect", "gfl.runtime.result", "gfl.model.detector", "gfl.model.losses"} <= set(EXAMPLES)
