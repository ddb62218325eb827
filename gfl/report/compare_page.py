"""Several runs on the same pictures side by side: numbers, classes, errors, settings, and the pictures that changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gfl.data.pictures import Picture
from gfl.report.analysis import Analysis
from gfl.report.coco_eval import COCO_LIMIT, SUMMARY_NAMES
from gfl.report.coco_matching import choose_backend, interval_of_difference
from gfl.report.gallery import found_picture
from gfl.report.html_parts import DIALOG, document, image, paragraph, sorting_table, table, text, tile
from gfl.report.kinds import ERRORS, KIND_NAMES, RIGHT, Judged
from gfl.report.sheets import jpeg, sheet
from gfl.report.tables import percent
from gfl.words import counted

CHANGED = 6  # pictures that are shown, of those that gained and of those that lost
SAMPLES, MOST_SAMPLED = 200, 2_000  # draws of pictures for an interval; with more pictures each draw takes long
FEW_PICTURES = 30  # with fewer, the draws repeat the same ones and say little of others
TILE_PX, TILE_QUALITY = 460, 72


class Compared(NamedTuple):
    """One of the runs."""

    title: str
    analysis: Analysis
    settings: Mapping[str, str]  # name -> value; empty where they are not known


def compare_page(runs: Sequence[Compared], pictures: Mapping[int, Picture]) -> str:
    """The whole page; the first run is the one that the others are compared with. All are on the same truth."""
    title = f"{len(runs)} runs compared"
    return document(title, f"<h1>{text(title)}</h1>" + "\n".join(_sections(runs, pictures)), with_script=True)


def _sections(runs: Sequence[Compared], pictures: Mapping[int, Picture]) -> Iterator[str]:
    letters = [letter_of(index) for index in range(len(runs))]
    yield table(["run", "folder"], [[letter, run.title] for letter, run in zip(letters, runs, strict=True)], texts=(1,))
    for letter, run in zip(letters[1:], runs[1:], strict=True):
        yield paragraph(difference_sentence(runs[0], run, letter), "lead")
    yield "<h2>COCO's twelve numbers, %</h2>"
    yield table(["", *letters], [[name, *(_number(run, name) for run in runs)] for name in SUMMARY_NAMES])
    if (limit := runs[0].analysis.metrics.max_detections) != COCO_LIMIT:
        yield paragraph(f"Of the {limit:,} best detections of a picture, all runs alike; so is what AR100 stands for.")
    yield "<h2>Errors</h2>"
    rows = []
    for kind in ERRORS:
        cells = []
        for run in runs:
            count = sum(each.count(kind) for each in run.analysis.judged)
            cost = None if run.analysis.breakdown is None else run.analysis.breakdown.costs.get(KIND_NAMES[kind])
            cells.append(f"{count:,}" + ("" if cost is None else f" ({100 * cost:.1f})"))
        rows.append([KIND_NAMES[kind], *cells])
    yield table(["kind", *letters], rows)
    yield paragraph("How many are shown, and in brackets the points of AP50 that they cost.", "faint")
    yield "<h2>AP of the classes, %</h2>"
    yield from _classes(runs, letters)
    yield from _settings(runs, letters)
    for letter, run in zip(letters[1:], runs[1:], strict=True):
        yield from _changed(runs[0], run, letter, pictures)
    yield DIALOG


def letter_of(index: int) -> str:
    """A, B, ... Z, AA, AB, ... as the columns of a spreadsheet.

    Example:
        >>> [letter_of(index) for index in (0, 25, 26, 52)]
        ['A', 'Z', 'AA', 'BA']
    """
    before, last = divmod(index, 26)
    return (letter_of(before - 1) if before else "") + chr(ord("A") + last)


def difference_sentence(one: Compared, other: Compared, letter: str) -> str:
    """How far apart two runs are, and whether other pictures might have said otherwise."""
    if not one.analysis.objects:
        return f"There is no object to find, so {letter} and A cannot be compared."
    difference = 100 * (other.analysis.metrics.AP - one.analysis.metrics.AP)
    change = (
        "the same AP as" if abs(difference) < 0.05 else f"{abs(difference):.1f} points of AP {_way(difference)} than"
    )
    both = " and ".join(f"{100 * run.analysis.metrics.AP:.2f}" for run in (other, one))
    sentence = f"{letter} has {change} A ({both})"
    not_counted = f"{sentence}. How far the choice of the pictures moves that was not counted"
    if choose_backend("auto") != "hotcoco":
        return f"{not_counted}, for hotcoco is not installed (pip install hotcoco)."
    if (pictures := other.analysis.metrics.images) > MOST_SAMPLED:
        return (
            f"{not_counted}: drawing them anew takes long, and is done for at most {MOST_SAMPLED:,}, not {pictures:,}."
        )
    interval = interval_of_difference(one.analysis.matching, other.analysis.matching, SAMPLES)
    if interval is None:
        return sentence + "."
    if not any(interval):
        return f"{sentence}, whichever of the pictures are drawn."
    low, high = (100 * bound for bound in interval)
    if low <= 0 <= high:
        verdict = "so these pictures do not tell which is better"
    elif pictures < FEW_PICTURES:
        verdict = f"but {counted(pictures, 'picture')} cannot stand for others"
    else:
        verdict = "so the choice of the pictures hardly explains it"
    return (
        f"{sentence}. Drawing the pictures anew {SAMPLES} times puts the difference between {low:+.1f} and {high:+.1f} "
        f"points in 95 of 100 draws, {verdict}; other seeds of training may differ more."
    )


def _way(difference: float) -> str:
    return "more" if difference > 0 else "less"


def _number(run: Compared, name: str) -> str:
    return percent(getattr(run.analysis.metrics, name))


def _classes(runs: Sequence[Compared], letters: Sequence[str]) -> Iterator[str]:
    head = ["class", "objects", *letters, *(f"{letter} - A" for letter in letters[1:])]
    by_run = [{row.name: row for row in run.analysis.classes} for run in runs]
    rows = []
    for name, first in by_run[0].items():
        values = [rows_of_run[name].AP for rows_of_run in by_run]
        cells: list[tuple[str, float | None]] = [(name, None), (f"{first.objects:,}", float(first.objects))]
        cells += [(percent(value), value) for value in values]
        for value in values[1:]:
            gain = None if value is None or values[0] is None else 100 * (value - values[0])
            cells.append(("-" if gain is None else f"{gain:+.1f}", gain))
        rows.append(cells)
    yield sorting_table("classes", head, rows)


def _settings(runs: Sequence[Compared], letters: Sequence[str]) -> Iterator[str]:
    known = [run.settings for run in runs if run.settings]
    names = sorted(set().union(*known))
    differing = [name for name in names if len({settings.get(name) for settings in known}) > 1]
    unknown = [letter for letter, run in zip(letters, runs, strict=True) if not run.settings]
    yield "<h2>Settings that differ</h2>"
    if unknown:
        yield paragraph(f"Those of {', '.join(unknown)} are not known: an evaluation's folder has none.")
    if not differing:
        yield paragraph("None.") if len(known) > 1 else ""
        return
    rows = [[name, *(run.settings.get(name, "-") for run in runs)] for name in differing]
    yield table(["setting", *letters], rows, texts=tuple(range(1, len(runs) + 1)))


def changes(one: Analysis, other: Analysis) -> list[tuple[float, Judged, Judged]]:
    """(change in F1, first run's, other's) of every picture whose F1 changed, the greatest gain first."""
    by_id = {each.image_id: each for each in other.judged}
    changed = [(f1(by_id[each.image_id]) - f1(each), each, by_id[each.image_id]) for each in one.judged]
    return sorted((each for each in changed if each[0]), key=lambda each: (-each[0], each[1].image_id))


def f1(judged: Judged) -> float:
    """F1 of the shown detections of a picture; 1 where nothing is there and nothing is shown."""
    right = judged.count(RIGHT)
    wrong = sum(int((judged.kinds == kind).sum()) for kind in ERRORS)
    whole = 2 * right + wrong + len(judged.missed)
    return 2 * right / whole if whole else 1.0


def _changed(one: Compared, other: Compared, letter: str, pictures: Mapping[int, Picture]) -> Iterator[str]:
    changed = [each for each in changes(one.analysis, other.analysis) if each[1].image_id in pictures]
    gained = [each for each in changed if each[0] > 0][:CHANGED]
    lost = [each for each in changed[::-1] if each[0] < 0][:CHANGED]
    better, worse = (sum(sign * each[0] > 0 for each in changed) for sign in (1, -1))
    yield f"<h2>Pictures that changed from A to {letter}</h2>"
    yield paragraph(
        f"{counted(better, 'picture')} better in {letter}, {worse:,} worse, "
        f"{len(one.analysis.judged) - len(changed):,} as before, by the F1 of what is shown."
        + (f" Left A, right {letter}; vermilion is wrong." if changed else "")
    )
    for heading, part in (("Better", gained), ("Worse", lost)):
        tiles = []
        for gain, before, after in part:
            picture = pictures[before.image_id]
            pair = [
                found_picture(picture, run.analysis, judged, TILE_PX) for run, judged in ((one, before), (other, after))
            ]
            if (left := pair[0]) is None or (right := pair[1]) is None:
                continue
            drawn = sheet([left, right], 2, TILE_PX)
            caption = f"{picture.file_name}: F1 {f1(before):.2f} in A, {f1(after):.2f} in {letter} ({gain:+.2f})"
            tag = image(jpeg(drawn, TILE_QUALITY), caption, drawn.shape[1], drawn.shape[0])
            tiles.append(tile(tag, caption))
        if tiles:
            yield f'<h3>{heading}</h3><div class="tiles">{"".join(tiles)}</div>'
