"""Every link of README.md and docs/ leads somewhere."""

from __future__ import annotations

import re

import documents
import pytest

from website.assemble import GENERATED, with_page_links
from website.assemble import pages as site_pages


@pytest.mark.parametrize("page", documents.PAGES)
def test_links_lead_to_files_and_headings_that_are_there(page: str) -> None:
    folder = (documents.ROOT / page).parent
    for link in documents.links(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (folder / name).resolve() if name else documents.ROOT / page
        if folder.name == "docs" and name in GENERATED:
            continue  # a page of the site; its builder checks the anchor
        assert target.is_relative_to(documents.ROOT), f"{page}: {link} leads out of the project"
        assert target.exists(), f"{page}: {link} leads to no file"
        if anchor:
            known = documents.anchors(target.relative_to(documents.ROOT).as_posix())
            assert anchor in known, f"{page}: {link} leads to no heading; there are {sorted(known)}"


@pytest.mark.parametrize("page", documents.PAGES)
def test_links_to_other_sites_are_whole(page: str) -> None:
    for link in documents.links(page):
        if re.match(r"[a-z]+:", link) and not link.startswith("mailto:"):
            assert re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]{2,}(/\S*)?", link), f"{page}: {link}"


def test_anchors_are_those_of_github(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# A `code` title: *two* [words](b.md)\n\n```\n# none\n```\n\n## Twice\n\n## Twice\n\n## `python -m x.y`\n"
    monkeypatch.setattr(documents, "page_text", lambda page: text)
    assert documents.anchors("a.md") == {"a-code-title-two-words", "twice", "twice-1", "python--m-xy"}


def test_links_in_code_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[a](b.md) `[c](d.md)`\n\n    [e](f.md)\n\n```\n[g](h.md)\n```\n\n![i](j.png)\n"
    monkeypatch.setattr(documents, "page_text", lambda page: text)
    assert documents.links("a.md") == ["b.md", "j.png"]


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("README.md", "[a](docs/own-data.md#b)", "[a](own-data.md#b)"),
        ("docs/deployment.md", "[a](../README.md) [b](knobs.md#c)", "[a](index.md) [b](knobs.md#c)"),
        ("README.md", "[gin/base.gin](gin/base.gin)", "[gin/base.gin](knobs.md)"),
        ("docs/deployment.md", "[a `b`](../gfl/train.py), [c](#d)", "a `b`, [c](#d)"),
        ("README.md", "[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("README.md", "![a](docs/pictures/b.png)", "![a](pictures/b.png)"),
    ],
)
def test_links_between_files_become_links_between_pages(path: str, text: str, said: str) -> None:
    assert with_page_links(text, path) == said


def test_every_page_of_the_site_is_in_its_menu_and_every_entry_has_a_page() -> None:
    listed = re.findall(r"(?m)^ +- .*: ([\w-]+\.md)$", (documents.ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(site_pages())
