"""What an annotation file says in a form of its own, or twice: judged by its rows, whether or not they can be used."""

from __future__ import annotations

from collections import Counter

from gfl.data import values
from gfl.data.check.findings import Finding, finding
from gfl.data.coco_json import CocoFile, Row, Table


def check_rows(file: CocoFile) -> list[Finding]:
    """Findings about ids, sizes and file names, each over all rows of the file."""
    found: list[Finding] = []
    for table in (file.images, file.annotations, file.categories):
        found += _check_ids(table)
    found += _check_links(file)
    sizeless = [_name(row) for row in file.images.rows if not _known_size(row)]
    found += finding(
        "unknown_sizes", "pictures without a height or width", "read from the pictures", sizeless, is_note=True
    )
    uses = Counter(str(row.get("file_name")) for row in file.images.rows)
    doubled = [f"{name} ({number} times)" for name, number in uses.items() if number > 1]
    becomes = "the boxes of each are parted; merge these entries"
    return found + finding("doubled_file_names", "file names that stand for several pictures", becomes, doubled)


def _check_ids(table: Table) -> list[Finding]:
    kind = table.kind
    plural = "categories" if kind == "category" else f"{kind}s"
    texts = [_name(row) for row in table.rows if isinstance(row.get("id"), str)]
    missing = [_name(row) for row in table.rows if row.get("id") is None]
    given = [str(row["id"]) for row in table.rows if row.get("id") is not None]
    uses = Counter(given) if len(set(given)) < len(given) else {}  # counting takes seconds where there are many
    doubled = [f"{key} ({number} times)" for key, number in uses.items() if number > 1]
    found = finding(f"text_ids_{kind}", f"{plural} with a text as id", "read as its number", texts, is_note=True)
    is_given = kind == "annotation"
    becomes = "given" if is_given else "number them"
    found += finding(f"missing_ids_{kind}", f"{plural} without an id", becomes, missing, is_note=is_given)
    found += finding(f"doubled_ids_{kind}", f"ids of several {plural}", "number them anew", doubled)
    if kind == "category":
        ids = sorted(key for key in (_of(row, "id") for row in table.rows) if key is not None)
        if ids and ids != list(range(ids[0], ids[0] + len(ids))):
            text = f"category ids with gaps ({ids[0]} to {ids[-1]} for {len(ids)} classes): no harm"
            found.append(Finding("gaps_in_category_ids", len(ids), text, is_note=True))
    return found


def _check_links(file: CocoFile) -> list[Finding]:
    """Annotations of pictures or classes that the file does not list."""
    found: list[Finding] = []
    for key, table in (("image_id", file.images), ("category_id", file.categories)):
        known = {_of(row, "id") for row in table.rows} - {None}
        odd = [row for row in file.annotations.rows if type(row.get(key)) is not int or row[key] not in known]
        lost = [f"{_name(row)} with {row.get(key)!r}" for row in odd if _of(row, key) not in known]
        what = f"annotations with a {key} that the file does not list"
        found += finding(f"unknown_{key}", what, "add it or remove them", lost)
    return found


def _of(row: Row, key: str) -> int | None:
    """A row's integer; None where it has none."""
    try:
        return values.integer(row.get(key))
    except ValueError:
        return None


def _known_size(row: Row) -> bool:
    try:
        return values.side(row.get("height")) > 0 and values.side(row.get("width")) > 0
    except ValueError:
        return False


def _name(row: Row) -> str:
    """What a person finds the row by."""
    return str(row.get("file_name") or row.get("name") or f"id {row.get('id')!r}")
