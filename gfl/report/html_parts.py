"""The pieces that the pages are put together from: one file each, without network, in light and dark.

Every text that comes from a file (class names, file names, settings) is escaped here.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from importlib import resources

from gfl.words import printable

# No page may load or send anything: what it needs is inside.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


# What a click on a picture of a gallery opens; script.js fills it.
DIALOG = (
    '<dialog aria-label="A picture, enlarged"><img alt="" src="data:,"><p></p><nav>'
    '<button type="button">Before</button><button type="button">Next</button><button type="button">Close</button>'
    "</nav></dialog>"
)


def document(title: str, body: str, *, with_script: bool = False) -> str:
    """A whole page."""
    assets = resources.files("gfl.report") / "assets"
    style = (assets / "style.css").read_text(encoding="utf-8")
    script = (assets / "script.js").read_text(encoding="utf-8") if with_script else ""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{style}</style>'
    )
    end = f"<script>{script}</script>" if script else ""
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n{body}\n</main>{end}</body></html>\n'


def text(value: str) -> str:
    """A text of somebody else's as it can stand in a page."""
    return html.escape(printable(value))


def paragraph(sentence: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(sentence)}</p>' if kind else f"<p>{text(sentence)}</p>"


def figure(content: str | Sequence[str], caption: str = "", label: str = "", *, shrinks: bool = True) -> str:
    """SVGs or an image with their caption. label: what a person who does not see them is told.

    shrinks: whether a narrow screen makes it smaller, rather than scroll it.
    """
    if not isinstance(content, str):
        content = f'<div class="plots">{"".join(f"<div>{part}</div>" for part in content)}</div>'
    described = content
    if label:
        kind = "plot" if shrinks else "plot unshrunk"
        described = f'<div class="{kind}" tabindex="0" role="img" aria-label="{text(label)}">{content}</div>'
    return f"<figure>{described}{f'<figcaption>{text(caption)}</figcaption>' if caption else ''}</figure>"


def image(jpeg: bytes, alternative: str, width: int = 0, height: int = 0) -> str:
    """A picture inside the page; width and height, px, keep its place while it loads."""
    size = f' width="{width}" height="{height}"' if width else ""
    data = base64.b64encode(jpeg).decode()
    return f'<img alt="{text(alternative)}" src="data:image/jpeg;base64,{data}"{size}>'


def tile(picture: str, caption: str) -> str:
    """A picture of a gallery, which a click enlarges."""
    return f'<button type="button" class="tile">{figure(picture, caption)}</button>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int] = ()) -> str:
    """A plain table; every column but the first and those of `texts` is flush right."""
    cells = "".join(
        f'<th scope="col"{_number(column, texts)}>{text(name)}</th>' if name else "<td></td>"
        for column, name in enumerate(head)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{_number(column, texts)}>{text(cell)}</td>' for column, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(column: int, texts: Sequence[int] = ()) -> str:
    return ' class="number"' if column and column not in texts else ""


def sorting_table(name: str, head: Sequence[str], rows: Sequence[Sequence[tuple[str, float | None]]]) -> str:
    """A table that a click on a column's head sorts, and a field filters by the first column.

    rows: cells as (text, the number to sort by); the first column sorts by its text.
    """
    heads = "".join(
        f'<th scope="col"{_number(column)}><button type="button">{text(title)}</button></th>'
        for column, title in enumerate(head)
    )
    body = "".join(
        "<tr>" + "".join(_sorting_cell(column, *cell) for column, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<p><label>{text(head[0].capitalize())}: <input type="search" id="{name}-filter" placeholder="part of a name">'
        f'</label> <small id="{name}-count" aria-live="polite">{len(rows)} of {len(rows)}</small></p>'
        f'<div class="wide tall" tabindex="0" role="region" aria-label="{text(head[0])} table">'
        f'<table class="sorts" data-filter="{name}-filter" data-count="{name}-count">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _sorting_cell(column: int, shown: str, value: float | None) -> str:
    if not column:
        return f"<td>{text(shown)}</td>"
    return f'<td class="number" data-value="{"" if value is None else repr(value)}">{text(shown)}</td>'


def folded(summary: str, content: str) -> str:
    """Content that a click opens."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def items(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(each)}</li>' for each in texts)}</ul>" if texts else ""
