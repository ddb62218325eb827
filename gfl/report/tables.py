"""An evaluation as plain text: aligned columns, in percent, as the papers print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfl.report.best_f1 import BestF1
from gfl.report.coco_eval import Metrics
from gfl.words import printable

_GAP = "  "
MOST_THRESHOLDS = 6  # classes whose thresholds are printed one by one


def percent(share: float | None) -> str:
    """0.532 -> '53.2'; '-' where there was nothing to find (None, or pycocotools' -1)."""
    return "-" if share is None or share < 0 else f"{100 * share:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells -> lines: the first column flush left, the others flush right, each as wide as its widest cell.

    Names of classes may hold ends of lines and other control characters: they become escapes, so a row is a line.
    """
    columns: list[list[str]] = []
    for column in zip(*(map(printable, row) for row in rows), strict=True):
        widths = list(map(text_width, column))
        blanks = [" " * (max(widths) - width) for width in widths]
        left, right = (blanks, column) if columns else (column, blanks)
        columns.append([one + other for one, other in zip(left, right, strict=True)])
    return "\n".join(_GAP.join(cells).rstrip() for cells in zip(*columns, strict=True))


def text_width(text: str) -> int:
    """Terminal columns that a text takes: two for a wide (East Asian) character, none for a combining one."""
    from rich.cells import cell_len

    return cell_len(text)


def summary_table(metrics: Metrics) -> str:
    """The twelve numbers in two pairs of lines: AP by overlap and size, AR by detections an image and size."""
    overlap = ["", "all", "IoU .50", "IoU .75", "small", "medium", "large"]
    limits = ["", *(f"{limit}/image" for limit in metrics.limits()), "small", "medium", "large"]
    numbers = list(map(percent, metrics.summary().values()))
    return aligned([overlap, ["AP", *numbers[:6]], limits, ["AR", *numbers[6:]]])


def per_class_table(per_class: Mapping[str, float | None], *, blocks: int | None = None) -> str:
    """AP by class, the best first, classes without ground truth last.

    blocks: how many pairs of columns stand side by side; None takes one for every 20 classes, at most four.
    """
    if not per_class:
        return "no classes"
    ranked = sorted(per_class.items(), key=lambda entry: (entry[1] is None, -(entry[1] or 0.0)))
    blocks = blocks or min(4, 1 + (len(ranked) - 1) // 20)
    height = -(-len(ranked) // blocks)
    columns = [_class_column(ranked[start : start + height], height) for start in range(0, len(ranked), height)]
    lines = [(_GAP * 2).join(parts).rstrip() for parts in zip(*columns, strict=True)]
    absent = sum(value is None for value in per_class.values())
    return "\n".join([*lines, *([f"- {absent} without ground truth, in no average"] if absent else [])])


def _class_column(entries: Sequence[tuple[str, float | None]], height: int) -> list[str]:
    """Lines of equal width: a header, the classes, blanks up to the height."""
    rows = [["class", "AP"], *([name, percent(value)] for name, value in entries)]
    lines = aligned(rows).split("\n")
    return lines + [" " * text_width(lines[0])] * (height + 1 - len(lines))


def evaluation_report(metrics: Metrics) -> str:
    """What a person reads at the end of a run: the twelve numbers, the classes, the time of the counting alone."""
    footer = f"{metrics.images:,} images, their detections counted in {metrics.seconds:.1f} s"
    parts = [summary_table(metrics), per_class_table(metrics.per_class), threshold_line(metrics.best_f1), footer]
    return "\n\n".join(filter(None, parts))


def threshold_line(best: Mapping[str, BestF1 | None]) -> str:
    """'highest F1 from a score of: cat 0.41, dog 0.38'; for many classes the range; empty where none is known."""
    scores = {name: one.score for name, one in best.items() if one is not None}
    if not scores:
        return ""
    if len(scores) <= MOST_THRESHOLDS:
        text = ", ".join(f"{printable(name)} {score:.2f}" for name, score in scores.items())
        if unknown := [printable(name) for name, one in best.items() if one is None]:
            text += f"; not measured, because none was found: {', '.join(unknown)}"
    else:
        text = f"{min(scores.values()):.2f} to {max(scores.values()):.2f}, by class (metrics.json)"
    return f"highest F1 from a score of: {text}"
