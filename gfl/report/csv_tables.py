"""What a report says of classes and of each error, as tables for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gfl.data.pictures import Picture
from gfl.report.analysis import Analysis
from gfl.report.kinds import CROWD, KIND_NAMES, MISSED, RIGHT
from gfl.report.page import CLASS_HEAD, class_cells

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what begins one, after OWASP's page on CSV injection


def class_table(analysis: Analysis) -> str:
    """per_class.csv: shares of 1, blank where nothing could be measured."""
    head = [column.replace(" of highest ", "_").replace(" ", "_") for column in CLASS_HEAD]
    rows = ([_name(row.name), *(_number(value) for _, value in class_cells(row)[1:])] for row in analysis.classes)
    return _written(head, rows)


def error_table(analysis: Analysis, pictures: Mapping[int, Picture]) -> str:
    """errors.csv: a line for each shown box that is wrong, and for each object that is missed; boxes in px."""
    head = ["file_name", "image_id", "kind", "class", "score", "x", "y", "width", "height"]
    return _written(head, _errors(analysis, pictures))


def _errors(analysis: Analysis, pictures: Mapping[int, Picture]) -> Iterator[list[str]]:
    truth, shown = analysis.truth, analysis.shown
    for each in analysis.judged:
        picture = pictures.get(each.image_id)
        where = ["" if picture is None else _name(picture.file_name), str(each.image_id)]
        for row, kind in zip(each.rows.tolist(), each.kinds.tolist(), strict=True):
            if kind not in (RIGHT, CROWD):
                name = truth.class_names[int(shown.category_ids[row])]
                box = map(_number, shown.boxes_xywh[row].tolist())
                yield [*where, KIND_NAMES[kind], _name(name), _number(float(shown.scores[row])), *box]
        for row in each.missed.tolist():
            name = truth.class_names[int(truth.category_id[row])]
            yield [*where, KIND_NAMES[MISSED], _name(name), "", *map(_number, truth.boxes_xywh[row].tolist())]


def _name(text: str) -> str:
    """A name of somebody else's, after an apostrophe where a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _written(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return written.getvalue()
