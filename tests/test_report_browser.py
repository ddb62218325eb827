"""Reports in a browser: nothing is fetched or fails, tables sort and filter, the gallery opens, and contrast suffices.

Needs `pip install -e '.[browser]'` and a Chromium; skipped without.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gfl.data.__main__ import main as data_main
from gfl.report.__main__ import main
from tests.test_report import results, write_data

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}

LONG = "fo" + 200 * "x"  # the name of a class, a word that is wider than a phone


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gfl.data.coco import read_coco

    folder = write_data(tmp_path_factory.mktemp("browser") / "data")
    content = json.loads((folder / "val.json").read_text())
    content["categories"][2]["name"] = LONG
    (folder / "val.json").write_text(json.dumps(content))
    data = read_coco(folder / "val.json", folder / "pictures", keep_empty=True)
    (folder / "found.json").write_text(json.dumps(results(data)))
    flags = ["--annotations", str(data.annotations), "--images", str(data.images)]
    assert main([*flags, "--results", str(folder / "found.json")]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def data_page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a data set of 80 classes with long names, in a folder with a long name."""
    folder = write_data(tmp_path_factory.mktemp(LONG) / "data")
    content = json.loads((folder / "val.json").read_text())
    content["categories"] += [{"id": number, "name": f"{LONG} {number}"} for number in range(4, 81)]
    (folder / "val.json").write_text(json.dumps(content))
    flags = ["--annotations", str(folder / "val.json"), "--images", str(folder / "pictures")]
    assert data_main(["check", *flags, "--html", str(folder / "data.html")]) == 1
    return folder / "data.html"


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids="-".join)
def screen(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def page(screen: tuple[str, str], browser: object, page_file: Path) -> Iterator[object]:
    with opened_on(screen, browser, page_file) as opened:
        yield opened


@pytest.fixture
def data_page(screen: tuple[str, str], browser: object, data_page_file: Path) -> Iterator[object]:
    with opened_on(screen, browser, data_page_file) as opened:
        yield opened


@contextmanager
def opened_on(screen: tuple[str, str], browser: object, page_file: Path) -> Iterator[object]:
    """A page as opened by a double click; nothing may be asked of a network, and no script may fail."""
    name, scheme = screen
    width, height = WIDTHS[name]
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, bypass_csp=True
    )
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and faults.append(said.text))
    opened.on("request", lambda asked: asked.url.startswith(("http", "ws")) and faults.append(asked.url))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert faults == []


def assert_no_wider_than_its_screen(page: object) -> None:
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")  # type: ignore[attr-defined]
    assert wide[0] <= wide[1]


def test_a_page_is_as_wide_as_its_screen(page: object) -> None:
    assert_no_wider_than_its_screen(page)


def test_many_classes_of_a_data_set_scroll_in_a_box_by_keyboard(data_page: object) -> None:
    assert_no_wider_than_its_screen(data_page)
    assert data_page.locator("table.sorts tbody tr").count() == 80  # type: ignore[attr-defined]
    box = data_page.locator(".tall")  # type: ignore[attr-defined]
    assert box.bounding_box()["height"] < 500
    box.focus()
    data_page.keyboard.press("End")  # type: ignore[attr-defined]
    data_page.wait_for_function("document.querySelector('.tall').scrollTop > 1000")  # type: ignore[attr-defined]


def column(page: object, number: int) -> list[str]:
    cells = page.locator(f"table.sorts tbody tr:not([hidden]) td:nth-child({number})")  # type: ignore[attr-defined]
    return list(cells.all_inner_texts())


def test_the_table_of_classes_sorts_and_filters_by_keyboard(page: object) -> None:
    head = page.locator("table.sorts th button").nth(1)  # type: ignore[attr-defined]
    head.focus()
    page.keyboard.press("Enter")  # type: ignore[attr-defined]
    assert column(page, 2) == ["12", "6", "0"]  # numbers begin with the largest
    page.keyboard.press("Enter")  # type: ignore[attr-defined]
    assert column(page, 2) == ["0", "6", "12"]
    assert page.locator("table.sorts th").nth(1).get_attribute("aria-sort") == "ascending"  # type: ignore[attr-defined]
    page.locator("#classes-filter").fill("FO")  # type: ignore[attr-defined]
    assert [name.replace("\n", "") for name in column(page, 1)] == [LONG]
    assert page.locator("#classes-count").inner_text() == "1 of 3"  # type: ignore[attr-defined]


def test_the_gallery_opens_goes_on_and_closes_by_keyboard(page: object) -> None:
    tile, dialog = page.locator(".tile").first, page.locator("dialog")  # type: ignore[attr-defined]
    tile.focus()
    page.keyboard.press("Enter")  # type: ignore[attr-defined]
    assert dialog.is_visible()
    first = dialog.locator("p").inner_text()
    page.keyboard.press("ArrowRight")  # type: ignore[attr-defined]
    assert dialog.locator("p").inner_text() != first
    page.keyboard.press("ArrowLeft")  # type: ignore[attr-defined]
    assert dialog.locator("p").inner_text() == first
    assert dialog.locator("img").evaluate("image => image.naturalWidth") > 100
    page.keyboard.press("Escape")  # type: ignore[attr-defined]
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.className") == "tile"  # type: ignore[attr-defined]


def test_axe_finds_nothing(page: object) -> None:
    assert_axe_finds_nothing(page)


def test_axe_finds_nothing_on_the_page_of_a_data_set(data_page: object) -> None:
    assert_axe_finds_nothing(data_page)


def assert_axe_finds_nothing(page: object) -> None:
    """Contrast, names of controls, headings, tables: axe-core's rules."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    told = [f"{each['id']}: {[node['html'][:150] for node in each['nodes'][:3]]}" for each in found]
    assert not told, "\n".join(told)
