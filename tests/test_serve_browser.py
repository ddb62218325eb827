"""The page of a server in a browser: infer's rows, no other origin, keyboard, phone, colours, and the token.

Needs `pip install -e '.[browser,serve]'` and a Chromium; skipped without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gfl.data.picture_files import read_picture
from gfl.runtime.open import open_model
from infer import run as infer
from tests.support.tiny_export import export, trained_flags

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")

from http_server import LIMITS, serving  # they need them
from page_browser import (
    CHROMIUM,
    SCREENS,
    browser,
    cells,
    check_screen,
    give,
    rows_of,
    transfer,
    visited,
    wait_until_done,
)
from playwright import sync_api as playwright

__all__ = ["browser"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
TOKEN = "let me in, bitte"


@pytest.fixture(scope="module")
def model(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "cells"
    export(*trained_flags(test_data), "--size", "256x320", "--size", "320x256", "--output", folder, "--skip_parity")
    return folder


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with serving(open_model(model), LIMITS._replace(body_bytes=2**21)) as client:
        yield f"http://127.0.0.1:{client.port}/"


@contextmanager
def opened(browser: object, address: str, **screen: object) -> Iterator[object]:
    with visited(browser, address, **screen) as page:
        playwright.expect(page.locator("#status")).to_have_text("Ready.")
        yield page


def test_rows_are_those_of_infer_to_the_last_digit(
    model: Path, address: str, browser: object, test_data: Path, tmp_path: Path
) -> None:
    files = [*cells(test_data, 10), *sorted((test_data / "coco_tiny" / "val2017").glob("*.jpg"))[:10]]
    flags = ["--output", str(tmp_path / "found"), "--format", "jsonl"]
    assert infer.main(["--model", str(model), "--input", *map(str, files), *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "found" / "results.jsonl").read_text().splitlines()[1:]]
    wanted = {Path(row["file"]).name: row for row in lines}
    with opened(browser, address) as page:
        give(page, files)
        rows = rows_of(page, tmp_path)
    assert [row["file"] for row in rows] == [file.name for file in files]
    for row in rows:
        assert all(len(detection.pop("edge_std")) == 4 for detection in row["detections"])
        same = {key: value for key, value in wanted[row["file"]].items() if key not in ("id", "file")}
        assert {key: row[key] for key in same} == same


def test_dropped_pictures_are_shown_as_chosen_and_saved(address: str, browser, test_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with opened(browser, address, expected=["status of 422", "status of 413"]) as page:
        for kind, file in zip(("drop", "paste"), cells(test_data, 2), strict=True):
            transfer(page, kind, file, f"{kind}.jpg")
        (tmp_path / "broken.jpg").write_bytes(b"no picture")
        (tmp_path / "large.jpg").write_bytes(bytes(3 * 2**20))
        give(page, [tmp_path / "broken.jpg", tmp_path / "large.jpg"])
        assert page.locator("#status").inner_text() == "4 of 4 pictures done, 2 failed."
        rows = rows_of(page, tmp_path)
        assert [row["file"] for row in rows] == ["drop.jpg", "paste.jpg", "broken.jpg", "large.jpg"]
        assert "cannot be decoded" in rows[2]["failure"]
        assert "more than 2 MB" in rows[3]["failure"]

        shown = page.locator("#found tr")
        first = shown.count()
        assert first > 0
        assert "on the server" in page.locator("#facts").inner_text()
        page.locator("#score").fill("0.6")
        assert 0 < shown.count() < first
        page.click("#own")
        page.locator("#classes input[type=checkbox]").first.uncheck()
        assert "RBC" not in page.locator("#found").inner_text()
        page.click("#all")
        assert shown.count() == first

        with page.expect_download() as download:
            page.click("#save-picture")
        download.value.save_as(tmp_path / "drawn.jpg")
        assert read_picture(tmp_path / "drawn.jpg").shape == (rows[0]["height"], rows[0]["width"], 3)


def test_a_keyboard_is_enough(address: str, browser, test_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with opened(browser, address) as page:
        reach(page, "files")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Space")
        chooser.value.set_files(cells(test_data, 2))
        wait_until_done(page)
        names = [file.name for file in cells(test_data, 2)]
        reach(page, "picture")
        page.keyboard.press("ArrowRight")
        playwright.expect(page.locator("#file")).to_have_text(names[1])
        page.keyboard.press("ArrowLeft")
        playwright.expect(page.locator("#file")).to_have_text(names[0])
        reach(page, "save-json")
        with page.expect_download():
            page.keyboard.press("Enter")
        reach(page, "score")
        page.keyboard.press("End")
        playwright.expect(page.locator("#score-value")).to_have_text("1.00")
        assert page.locator("#found tr").count() == 0
        reach(page, "own")
        page.keyboard.press("Enter")
        assert page.locator("#found tr").count() > 0
        reach(page, "clear", "Shift+Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "files"


def reach(page, name: str, key: str = "Tab") -> None:  # type: ignore[no-untyped-def]
    """Go to an element by the keyboard."""
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == name:
            return
        page.keyboard.press(key)
    raise AssertionError(f"{name} cannot be reached")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_it_fits_the_screen_and_axe_finds_nothing(
    width: int, scheme: str, address: str, browser: object, test_data: Path
) -> None:
    with opened(browser, address, width=width, scheme=scheme) as page:
        check_screen(page, f"server-empty-{width}-{scheme}")
        give(page, cells(test_data, 3))
        page.click("#card summary")  # type: ignore[attr-defined]
        check_screen(page, f"server-{width}-{scheme}")


def test_the_documentation_fits_too(address: str, browser: object) -> None:
    with visited(browser, address, "docs", width=390, scheme="dark") as page:
        check_screen(page, "server-docs")


def test_a_token_is_given_in_the_page(model: Path, browser, test_data: Path) -> None:  # type: ignore[no-untyped-def]
    with ExitStack() as stack:
        client = stack.enter_context(serving(open_model(model), token=TOKEN))
        refused = ["401 (Unauthorized)"]
        page = stack.enter_context(visited(browser, f"http://127.0.0.1:{client.port}/", width=390, expected=refused))
        playwright.expect(page.locator("#problem")).to_have_text("The server asks for its token.")
        check_screen(page, "server-token")
        reach(page, "token")
        page.keyboard.type("let me, schön €")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#problem")).to_have_text("The server does not take this token.")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#status")).to_have_text("Ready.")
        assert not page.locator("#token").is_visible()
        give(page, cells(test_data, 1))
        assert page.locator("#status").inner_text() == "1 of 1 pictures done."
        assert page.locator("#found tr").count() > 0
        kept = page.evaluate("JSON.stringify([location.href, {...localStorage}, {...sessionStorage}, document.cookie])")
        assert "bitte" not in kept
