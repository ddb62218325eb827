"""The page of infer/page in Debian's Chromium: opening it, giving it pictures, and looking at its faults."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright import sync_api as playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
DROP = """([name, content, kind]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
    const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: transfer, bubbles: true });
    document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@contextmanager
def visited(browser, address: str, query: str = "", *, width=1280, scheme="light", expected=()):  # type: ignore[no-untyped-def]
    """A page at an address; nothing may be asked of another origin, and no script may fail.

    expected: parts of what the console may say.
    """
    faults: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("request", lambda asked: asked.url.startswith((address, "blob:", "data:")) or faults.append(asked.url))
    page.goto(address + query)
    yield page
    context.close()
    unexpected = [fault for fault in faults if not any(part in fault for part in expected)]
    assert not unexpected, unexpected


def give(page, files: list[Path]) -> None:  # type: ignore[no-untyped-def]
    """Choose pictures, and wait until all are done."""
    page.set_input_files("#files", files)
    wait_until_done(page)


def wait_until_done(page) -> None:  # type: ignore[no-untyped-def]
    total = page.locator("#pictures button").count()
    playwright.expect(page.locator("#status")).to_contain_text(f"{total} of {total}", timeout=600_000)


def transfer(page, kind: str, file: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    """Drop or paste a picture."""
    page.evaluate(DROP, [name, base64.b64encode(file.read_bytes()).decode(), kind])


def rows_of(page, folder: Path) -> list[dict]:  # type: ignore[no-untyped-def, type-arg]
    with page.expect_download() as download:
        page.click("#save-json")
    assert download.value.suggested_filename == "detections.json"
    download.value.save_as(folder / "detections.json")
    content: list[dict] = json.loads((folder / "detections.json").read_text())  # type: ignore[type-arg]
    return content


def cells(test_data: Path, count: int) -> list[Path]:
    return sorted((test_data / "bccd" / "val").glob("*.jpg"))[:count]


def check_screen(page, name: str) -> None:  # type: ignore[no-untyped-def]
    """Nothing lies beside the screen, and axe finds nothing; GFL_SCREENSHOTS names a folder for what it looks like."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    if shots := os.environ.get("GFL_SCREENSHOTS"):
        page.screenshot(path=f"{shots}/{name}.png", full_page=True)
    found = axe.run(page).response["violations"]
    told = [f"{each['id']}: {[node['html'][:150] for node in each['nodes'][:3]]}" for each in found]
    assert not told, "\n".join(told)
