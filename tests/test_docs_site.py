"""The pages that are made from the code, and the site of all pages."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gfl.settings
from website import knobs, reference
from website.__main__ import main
from website.assemble import pages
from website.markdown import escaped, table, with_languages
from website.source import alternatives, class_named, definition, fields_of, read_source

ROOT = Path(__file__).resolve().parent.parent


# ---- the knobs ----


def test_every_knob_is_on_its_page_with_default_type_and_meaning() -> None:
    page = knobs.knobs_page()
    for owner in knobs.OWNERS:
        for field in fields(getattr(gfl.settings, owner)):
            if field.name not in ("detector", "data", "optim"):
                name = field.metadata.get("knob", field.name.upper())
                row = re.search(rf"(?m)^\| `{name}` \| (.*?) \| (`.+?`) \| .*$", page)
                assert row, f"{name} is not on the page"
                assert ast.literal_eval(row[2].strip("`")) == field.default, name
                assert len(row[1]) > 10, f"{name} has no meaning"


def test_the_page_of_the_knobs_has_no_other_rows() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|", knobs.knobs_page())
    assert sorted(rows) == sorted(knobs.settings_by_knob())


def test_a_knob_without_a_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "settings_by_knob", dict)
    with pytest.raises(ValueError, match=r"ACCUMULATE, .* in only one of gin/base.gin and gfl/settings.py"):
        knobs.knobs_page()


def test_comments_of_a_gin_file_go_on_over_lines() -> None:
    text = "# ---- a part\nA_B = 'x # y'  # first,\n     # then\n# alone\nC = (1, 2)\ninclude 'd.gin'\n"
    assert knobs.read_knobs(text) == [
        knobs.Knob("A_B", "'x # y'", "first, then", "a part"),
        knobs.Knob("C", "(1, 2)", "", "a part"),
    ]


def test_what_run_files_set_is_shown() -> None:
    epochs = knobs.set_in_run_files()["EPOCHS"]
    assert (epochs["r50.gin"], epochs["r50_ms2x.gin"]) == ("12", "24")
    assert "## models/r50.gin" in knobs.run_files_page()
    assert "## finetune.gin" in knobs.run_files_page()
    assert "SETTINGS_FROM_CHECKPOINT = True" in knobs.run_files_page()


# ---- the Python API ----


def test_every_public_name_is_described() -> None:
    page = reference.reference_page()
    for chapter in reference.CHAPTERS:
        for path, names in chapter.names:
            for name in names:
                assert f"### {name}\n" in page
                assert hasattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_fields_are_those_of_the_dataclass() -> None:
    source = read_source("gfl/settings.py")
    for owner in knobs.OWNERS:
        shown = [field.name for field in fields_of(source, class_named(source, owner))]
        assert shown == [field.name for field in fields(getattr(gfl.settings, owner))]


def test_a_signature_shows_defaults_and_what_is_given_by_name() -> None:
    node = ast.parse("def f(self, a: int, b=2, *c: str, d: int | None = None, e) -> bool: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    assert reference.signature(node) == "f(a: int, b=2, *c: str, d: int | None = None, e) -> bool"


def test_a_docstring_becomes_lists_and_code() -> None:
    arguments = "Args:\n    a: first,\n        and on.\n    b, c: both."
    text = f"One *sentence*.\n\n{arguments}\n\nExample:\n    >>> 1 + 1  # doctest: +SKIP\n    2"
    assert reference.prose(text) == (
        "One \\*sentence\\*.\n\n**Args**\n\n- `a`: first,\n  and on.\n- `b, c`: both.\n\n"
        "**Example**\n\n```pycon\n>>> 1 + 1\n2\n```\n"
    )


def test_a_name_that_is_gone_or_says_nothing_is_told() -> None:
    with pytest.raises(LookupError, match="got the name nothing, expected a class or function"):
        definition(read_source("gfl/errors.py"), "nothing")
    node = ast.parse("def f(): ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    with pytest.raises(ValueError, match="got f without a docstring"):
        reference.docstring(node, "f")


def test_alternatives_of_a_type() -> None:
    assert list(alternatives("bool | Literal['a', 'b'] | tuple[int | None, ...]")) == [
        *("bool", "'a'", "'b'", "tuple[int | None, ...]")
    ]


def test_cells_and_text_show_their_characters() -> None:
    assert escaped("a_b <c> `d_e` [f]") == r"a\_b \<c\> `d_e` \[f\]"
    assert table(("a", "b"), [("c|d `e|f`", "g\nh")]).splitlines()[2] == "| c&#124;d `e|f` | g h |"


def test_columns_without_content_are_left_out() -> None:
    assert table(("a", "b", "c"), [("d", "", "e"), ("f", "", "")]) == "| a | c |\n| --- | --- |\n| d | e |\n| f |  |"


def test_indented_code_becomes_fences_of_its_language() -> None:
    text = (
        "A:\n\n    make demo\n\n    python -m gfl\n\n    b\n\n```js\n\n    c\n```\n\n    from d import e\n\n    f\ng\n"
    )
    assert with_languages(text) == (
        "A:\n\n```sh\nmake demo\n\npython -m gfl\n\nb\n```\n\n```js\n\n    c\n```\n\n"
        "```python\nfrom d import e\n\nf\n```\ng\n"
    )


# ---- the site ----


def test_pages_are_written_anew_and_other_folders_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "pages")]) == 0
    (tmp_path / "pages" / "old.md").write_text("old")
    assert main(["--output", str(tmp_path / "pages")]) == 0
    assert not (tmp_path / "pages" / "old.md").exists()
    assert {path.name for path in (tmp_path / "pages").glob("*.md")} == set(pages())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    assert main(["--output", str(tmp_path / "mine")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert (tmp_path / "mine" / "a.txt").exists()


def test_the_page_of_the_model_cards_lists_the_sections_that_a_card_has() -> None:
    card = ROOT / "gfl" / "card" / "page.py"
    if not card.is_file():
        pytest.skip("gfl/card is not there")
    page = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    sections = re.findall(r'yield "## (.+?)"', card.read_text(encoding="utf-8"))
    assert sections
    assert [name for name in sections if f"| {name} |" not in page] == []


class Loaded(HTMLParser):
    """The addresses that a browser loads by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.addresses.append(given.get("href") or "")


def docs_python() -> str | None:
    """A Python with zensical: that of GFL_DOCS_PYTHON, or this one."""
    python = os.environ.get("GFL_DOCS_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import zensical"], capture_output=True, check=False)
    return python if found.returncode == 0 else None


def build(python: str) -> str:
    """Build the site; what make said."""
    line = ["make", "docs", f"DOCS_PYTHON={python}"]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_make_docs_builds_the_site_without_warnings_and_it_needs_no_network() -> None:
    python = docs_python()
    if shutil.which("make") is None or python is None:
        pytest.skip("make is missing, or zensical, of the extra `docs`; GFL_DOCS_PYTHON names a Python that has it")
    assert "warning" not in build(python).lower()
    assert (ROOT / "site" / "search.js").stat().st_size > 10_000  # what a page without a server searches
    for name in pages():
        page = Loaded()
        page.feed((ROOT / "site" / name).with_suffix(".html").read_text(encoding="utf-8"))
        assert page.addresses
        assert [each for each in page.addresses if "//" in each and not each.startswith("data:")] == [], name


@pytest.fixture
def chromium() -> Iterator[object]:
    """A browser without a window, and the site to look at."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser, python = shutil.which("chromium"), docs_python()
    if browser is None or python is None:
        pytest.skip("chromium is missing, or zensical, of the extra `docs`; GFL_DOCS_PYTHON names a Python that has it")
    if not (ROOT / "site" / "index.html").is_file():
        build(python)
    with playwright.sync_playwright() as start:
        started = start.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.slow
def test_the_site_searches_and_shows_every_page_from_a_disk_without_network(chromium: object) -> None:
    told: list[str] = []
    page = chromium.new_context(offline=True, viewport={"width": 390, "height": 844}).new_page()  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.extend([request.url] if not request.url.startswith("file:") else []))
    for name in pages():
        page.goto((ROOT / "site" / name).with_suffix(".html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.goto((ROOT / "site" / "index.html").as_uri())
    page.keyboard.press("Control+k")
    page.wait_for_timeout(500)
    page.keyboard.type("warmup", delay=50)
    page.get_by_text("Optimiser and schedule").first.wait_for()  # the part of the knobs that has WARMUP_STEPS
    assert told == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_site_can_be_read_by_everyone(scheme: str, chromium: object) -> None:
    """Contrast and names of links by axe-core, on a page with tables, one with code and one with pictures."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = chromium.new_context(color_scheme=scheme, viewport={"width": 1300, "height": 900}).new_page()  # type: ignore[attr-defined]
    for name in ("index", "knobs", "reference"):
        page.goto((ROOT / "site" / f"{name}.html").as_uri())
        found = axe.Axe().run(page, options={"runOnly": ["color-contrast", "link-name", "image-alt"]})
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
