"""The page of `export.web` in a browser: infer's rows, no other origin, keyboard, phone, colours, memory.

Needs `pip install -e '.[browser]'`, a Chromium, and npm or the unpacked package onnxruntime-web in GFL_WEB_RUNTIME;
skipped without.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from export import web
from gfl.data.picture_files import read_picture
from gfl.data.transforms import place_on_canvas, resize
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from infer import run as infer
from tests.support.tiny_export import export, trained_flags

pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")

from page_browser import (  # it needs it
    CHROMIUM,
    SCREENS,
    browser,
    cells,
    check_screen,
    give,
    rows_of,
    transfer,
    visited,
)
from playwright import sync_api as playwright

__all__ = ["browser"]  # a fixture
RUNTIME = os.environ.get("GFL_WEB_RUNTIME")
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
# What a row of the page may differ from infer's, on pictures of the model's own kind and on others; docs/browser.md has
# what was measured.
MOST = {"cells score": 5e-5, "cells px": 0.05, "others score": 1e-3, "others px": 0.1}
MB = 1 << 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(RUNTIME is None and shutil.which("npm") is None, reason="neither npm nor GFL_WEB_RUNTIME"),
]


class Site(NamedTuple):
    model: Path
    folder: Path


@pytest.fixture(scope="module")
def site(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("page")
    sizes = ["--size", "256x320", "320x256"]
    export(*trained_flags(test_data), *sizes, "--output", folder / "cells", "--skip_parity")
    runtime = ["--runtime", RUNTIME] if RUNTIME else []
    assert web.main(["--model", str(folder / "cells"), "--output", str(folder / "site"), *runtime]) == 0
    return Site(folder / "cells", folder / "site")


@contextmanager
def served(folder: Path, headers: dict[str, str]) -> Iterator[str]:
    """The folder on a static server; its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *said: object) -> None:
            pass

        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def opened(browser, site: Site, *, headers=None, query="", **screen) -> Iterator[object]:  # type: ignore[no-untyped-def]
    """The page, ready."""
    with served(site.folder, headers or {}) as address, visited(browser, address, query, **screen) as page:
        playwright.expect(page.locator("#status")).to_have_text("Ready.", timeout=120_000)
        yield page


def odd_pictures(test_data: Path, folder: Path) -> list[Path]:
    """Other sizes, and each way that a camera may have been held."""
    pillow = pytest.importorskip("PIL.Image")
    found = sorted((test_data / "coco_tiny" / "val2017").glob("*.jpg"))[:12]
    for orientation in range(2, 9):
        with pillow.open(found[orientation]) as picture:
            exif = picture.getexif()
            exif[0x0112] = orientation
            found.append(folder / f"held_{orientation}.jpg")
            picture.save(found[-1], exif=exif, quality=95)
    noise = np.random.default_rng(0).integers(0, 256, (37, 501, 3)).astype(np.uint8)
    pillow.fromarray(noise).save(folder / "noise.png")
    return [*found, folder / "noise.png"]


def test_rows_are_those_of_infer(site: Site, browser: object, test_data: Path, tmp_path: Path) -> None:
    files = [*cells(test_data, 20), *odd_pictures(test_data, tmp_path)]
    flags = ["--output", str(tmp_path / "found"), "--format", "jsonl"]
    assert infer.main(["--model", str(site.model), "--input", *map(str, files), *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "found" / "results.jsonl").read_text().splitlines()]
    wanted = {Path(row["file"]).name: row for row in lines if "file" in row}
    with opened(browser, site) as page:
        give(page, files)
        rows = rows_of(page, tmp_path)
    assert [row["file"] for row in rows] == [file.name for file in files]
    most: dict[str, float] = defaultdict(float)
    for row in rows:
        other = wanted[row["file"]]
        kind = "cells" if row["file"].startswith("Blood") else "others"
        for key in ("width", "height", "count", "complete", "failure"):
            assert row[key] == other[key], row["file"]
        for found, expected in paired(row["detections"], other["detections"]):
            most[f"{kind} score"] = max(most[f"{kind} score"], abs(found["score"] - expected["score"]))
            most[f"{kind} px"] = max(most[f"{kind} px"], *np.abs(np.subtract(found["bbox"], expected["bbox"])))
    print(dict(most))
    assert all(most[name] <= limit for name, limit in MOST.items()), dict(most)


def paired(found: list[dict], expected: list[dict]) -> Iterator[tuple[dict, dict]]:  # type: ignore[type-arg]
    """Each detection with the nearest one of its class, once: those of almost one score may change their order."""
    left = list(expected)
    for each in found:
        same = [other for other in left if other["category_id"] == each["category_id"]]
        assert same, "another class"
        nearest = min(same, key=lambda other: np.abs(np.subtract(other["bbox"], each["bbox"])).max())
        left.remove(nearest)
        yield each, nearest


def test_pictures_are_prepared_to_the_bytes_of_infer(
    site: Site, browser: object, test_data: Path, tmp_path: Path
) -> None:
    model = open_model(site.model)
    about = json.loads((site.folder / "model.json").read_text())
    script = """async ([content, model]) => {
        const { decode, prepare } = await import("./detect.js");
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        const { planes, canvas, size } = prepare(await decode(new Blob([bytes])), model);
        let text = "";
        for (let at = 0; at < planes.length; at += 4096) text += String.fromCharCode(...planes.subarray(at, at + 4096));
        return { planes: btoa(text), canvas, size };
    }"""
    with opened(browser, site) as page:
        for file in [*cells(test_data, 20), *odd_pictures(test_data, tmp_path)]:
            content = base64.b64encode(file.read_bytes()).decode()
            got = page.evaluate(script, [content, about])  # type: ignore[attr-defined]
            planes, size = prepared(file, model)
            assert (tuple(got["size"]), tuple(got["canvas"])) == (size, planes.shape[1:])
            ours = np.frombuffer(base64.b64decode(got["planes"]), np.uint8).reshape(planes.shape)
            apart = np.abs(ours.astype(int) - planes)
            print(file.name, apart.max(), (apart > 0).mean())
            assert apart.max() <= 1, file.name


def prepared(file: Path, model: Model) -> tuple[np.ndarray, tuple[int, int]]:  # type: ignore[type-arg]
    """A picture as infer gives it to the model, and its size there."""
    image = read_picture(file)
    canvas, size = model.canvas_for(*image.shape[:2])
    planes = np.zeros((3, *canvas), np.uint8)
    place_on_canvas(resize(image, size), planes)
    return planes, size


def test_threads_where_the_host_isolates_the_page(site: Site, browser: object, test_data: Path) -> None:
    with opened(browser, site, headers=ISOLATED) as page:
        threads = page.evaluate("navigator.hardwareConcurrency")  # type: ignore[attr-defined]
        assert f"{min(8, threads)} thread" in page.locator("#about").inner_text()  # type: ignore[attr-defined]
        give(page, cells(test_data, 4))
        print(page.locator("#facts").inner_text())  # type: ignore[attr-defined]


def test_slider_classes_and_downloads(site: Site, browser, test_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    about = json.loads((site.folder / "model.json").read_text())
    with opened(browser, site) as page:
        give(page, cells(test_data, 2))
        (row, _) = rows_of(page, tmp_path)
        best = [each for each in row["detections"] if each["score"] >= about["score_thresholds"][0]]
        shown = page.locator("#found tr")
        first = shown.count()
        assert 0 < first <= len(best)
        scores = [float(text) for text in page.locator("#found td:nth-child(2)").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= about["score_thresholds"][0] - 5e-4

        page.locator("#score").fill("0.6")
        assert 0 < shown.count() < first
        page.click("#own")
        assert shown.count() == first
        page.locator("#classes input[type=range]").first.fill("1")
        assert "RBC" not in page.locator("#found").inner_text()
        page.click("#own")
        page.locator("#classes input[type=checkbox]").first.uncheck()
        assert "RBC" not in page.locator("#found").inner_text()
        page.click("#none")
        assert shown.count() == 0
        plain = page.evaluate("document.getElementById('picture').toDataURL()")
        page.click("#all")
        assert page.evaluate("document.getElementById('picture').toDataURL()") != plain

        with page.expect_download() as download:
            page.click("#save-picture")
        download.value.save_as(tmp_path / "drawn.jpg")
        assert download.value.suggested_filename == f"{Path(row['file']).stem}_drawn.jpg"
        assert read_picture(tmp_path / "drawn.jpg").shape == (row["height"], row["width"], 3)
        page.click("#card summary")
        assert about["digest"] in page.locator("#card").inner_text()


def test_drop_paste_broken_files_and_keyboard(site: Site, browser, test_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with opened(browser, site) as page:
        for kind, file in zip(("drop", "paste"), cells(test_data, 2), strict=True):
            transfer(page, kind, file, f"{kind}.jpg")
        (tmp_path / "broken.jpg").write_bytes(b"no picture")
        give(page, [tmp_path / "broken.jpg"])
        assert page.locator("#status").inner_text() == "3 of 3 pictures done, 1 failed."
        assert [row["file"] for row in rows_of(page, tmp_path)] == ["drop.jpg", "paste.jpg", "broken.jpg"]
        assert rows_of(page, tmp_path)[2]["failure"] == "this browser cannot decode it"

        page.locator("#picture").focus()
        page.keyboard.press("ArrowRight")
        playwright.expect(page.locator("#file")).to_have_text("paste.jpg")
        page.keyboard.press("ArrowRight")
        playwright.expect(page.locator("#facts")).to_contain_text("cannot decode")
        page.locator("#classes input[type=checkbox]").first.focus()
        page.keyboard.press("Space")
        assert not page.locator("#classes input[type=checkbox]").first.is_checked()
        page.keyboard.press("Tab")
        before = page.locator("#classes output").first.inner_text()
        page.keyboard.press("ArrowRight")  # moves the slider, and leaves the picture
        assert page.locator("#classes output").first.inner_text() != before
        assert page.locator("#file").inner_text() == "broken.jpg"
        page.locator("#clear").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "files"
        assert not page.locator("#work").is_visible()


def test_the_camera_stays_in_the_tab(site: Site, browser) -> None:  # type: ignore[no-untyped-def]
    with opened(browser, site) as page:
        page.click("#camera")
        playwright.expect(page.locator("#facts")).to_contain_text("detected in", timeout=60_000)
        page.click("#camera")
        playwright.expect(page.locator("#camera")).to_have_text("Camera")
        assert page.locator("#pictures button").count() == 1


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_it_fits_the_screen_and_axe_finds_nothing(
    width: int, scheme: str, site: Site, browser: object, test_data: Path
) -> None:
    with opened(browser, site, width=width, scheme=scheme) as page:
        give(page, cells(test_data, 3))
        page.click("#card summary")  # type: ignore[attr-defined]
        check_screen(page, f"{width}-{scheme}")


def test_memory_is_flat_over_200_pictures(site: Site, browser, test_data: Path) -> None:  # type: ignore[no-untyped-def]
    session = browser.new_browser_cdp_session()

    def memory() -> int:
        """Resident bytes of the tabs and of what draws for them."""
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        lines = [Path(f"/proc/{each['id']}/status").read_text().splitlines() for each in processes]
        return sum(int(line.split()[1]) * 1024 for status in lines for line in status if line.startswith("VmRSS"))

    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    pictures = cells(test_data, 50)
    with opened(browser, site) as page:
        used = []
        for _ in range(4):
            give(page, pictures)
            used.append(memory())
        took = page.locator("#facts").inner_text()
    print([round(each / MB) for each in used], took)
    assert used[-1] - used[0] < 60 * MB
