"""Puts the pages together: what is written in docs/ and at the root, and what is made from the code.

Links between files of the repository become links between pages; a link to a file that has no page becomes its text.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from gfl.files import new_folder
from website.knobs import knobs_page, run_files_page
from website.markdown import with_languages
from website.reference import reference_page
from website.source import ROOT

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
GENERATED = {"knobs.md": knobs_page, "run-files.md": run_files_page, "reference.md": reference_page}
STANDS_FOR = {"gin/base.gin": "knobs.md", "gin": "run-files.md"}  # files with a page that shows them
ASSETS = Path(__file__).resolve().parent / "assets"  # that mkdocs.yml names
PICTURES = (".png", ".jpg", ".svg", ".gif", ".webp")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def write_pages(output: Path) -> None:
    """Write every page and picture of the site into a new folder."""
    content = {name: text.encode() for name, text in pages().items()}
    content |= {page_path(picture): (ROOT / picture).read_bytes() for picture in pictures()}
    content |= {f"own/{asset.name}": asset.read_bytes() for asset in sorted(ASSETS.iterdir())}
    with new_folder(output) as folder:
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def pages() -> dict[str, str]:
    """Name -> text of every page."""
    written = {path: page_path(path) for path in (*ROOT_PAGES, *_docs(".md"))}
    texts = {path: with_languages((ROOT / path).read_text(encoding="utf-8")) for path in written}
    found = {page: with_page_links(texts[path], path) for path, page in written.items()}
    return found | {name: make() for name, make in GENERATED.items()}


def pictures() -> list[str]:
    """The pictures of the pages, by their paths in the repository."""
    return [path for kind in PICTURES for path in _docs(kind)]


def page_path(path: str) -> str:
    """Where a file of the repository stands in the site."""
    return ROOT_PAGES.get(path) or path.removeprefix("docs/")


def with_page_links(text: str, path: str) -> str:
    """The text of the file `path` with the links of its page."""
    return LINK.sub(lambda link: page_link(link, path), text)


def page_link(link: re.Match[str], path: str) -> str:
    """A link of the file `path`, as it is on its page."""
    mark, text, target = link.groups()
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return link[0]
    name, _, anchor = target.partition("#")
    file = _normal(PurePosixPath(path).parent / name)
    if STANDS_FOR.get(file.rstrip("/")):
        return f"[{text}]({STANDS_FOR[file.rstrip('/')]})"
    has_page = file in ROOT_PAGES or (file.startswith("docs/") and file.endswith((".md", *PICTURES)))
    if not has_page and file.removeprefix("docs/") not in GENERATED:
        return text
    return f"{mark}[{text}]({page_path(file)}{'#' + anchor if anchor else ''})"


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _docs(suffix: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob(f"*{suffix}"))]
