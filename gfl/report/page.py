"""report.html: what a run or an evaluation came to, on one page that opens by a double click.

It holds everything it shows. The sentences are those of gfl/report/sentences.py, the plots of gfl/report/figures.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gfl.data.check.findings import Finding
from gfl.data.pictures import Picture
from gfl.report import figures
from gfl.report.analysis import Analysis, ClassRow
from gfl.report.findings_part import findings_list
from gfl.report.gallery import example_picture, examples
from gfl.report.html_parts import (
    DIALOG,
    document,
    figure,
    folded,
    image,
    items,
    paragraph,
    sorting_table,
    table,
    text,
    tile,
)
from gfl.report.kinds import CROWD, ERRORS, KIND_NAMES
from gfl.report.sentences import MEANINGS, calibration_sentence, hints, spread_sentence, summary
from gfl.report.sheets import jpeg
from gfl.report.tables import percent
from gfl.words import counted

LEGIBLE = 8  # classes whose confusion can still be read when it is as narrow as a phone
TILE_PX, TILE_QUALITY = 460, 72  # of a picture in the gallery, two of them side by side


@dataclass(frozen=True)
class Subject:
    """What a page is about; what is not known is left out of it."""

    title: str
    analysis: Analysis | None = None
    pictures: Mapping[int, Picture] = field(default_factory=dict)  # of the evaluation, by id
    steps: Sequence[Mapping[str, object]] = ()  # lines of log.jsonl
    evaluations: Sequence[Mapping[str, object]] = ()
    batch: int = 1  # pictures a step
    labels: Sequence[str] = ()  # plots of the training data, SVG
    findings: Mapping[str, Sequence[Finding]] = field(default_factory=dict)  # 'training' -> what its check found
    usual: str = ""  # the name of the settings that those of the run are compared with
    settings: Sequence[tuple[str, str, str]] = ()  # name, value, usual value: where they differ
    recipe: Sequence[tuple[str, str]] = ()  # name and value of the settings that people ask for first
    environment: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()  # what for, command
    notes: Sequence[str] = ()  # what the page lacks, and why


def report_page(subject: Subject) -> str:
    """The whole page."""
    return document(subject.title, "\n".join(_sections(subject)), with_script=True)


def _sections(subject: Subject) -> Iterator[str]:
    yield f"<h1>{text(subject.title)}</h1>"
    for note in subject.notes:
        yield paragraph(note, "unusable")
    analysis = subject.analysis
    if analysis is not None:
        yield from (paragraph(sentence, "lead") for sentence in summary(analysis))
        yield items(list(hints(analysis)))
    if subject.steps:
        yield "<h2>The run</h2>"
        run = figures.run_figure(subject.steps, subject.evaluations, subject.batch)
        yield figure(
            figures.svgs(run), label="Losses, validation AP, learning rate and pictures a second over the steps"
        )
    if analysis is not None:
        yield from _numbers(analysis)
        yield from _classes(analysis)
        yield from _errors(analysis)
        yield from _scores(analysis)
        yield from _edges(analysis)
        yield from _gallery(subject, analysis)
    yield from _data(subject)
    yield from _how(subject)


def _numbers(analysis: Analysis) -> Iterator[str]:
    yield "<h2>COCO's twelve numbers, %</h2>"
    metrics = analysis.metrics
    numbers = [percent(value) for value in metrics.summary().values()]
    yield table(["", "all", "IoU 0.50", "IoU 0.75", "small", "medium", "large"], [["AP", *numbers[:6]]])
    limits = [f"{limit} a picture" for limit in metrics.limits()]
    yield table(["", *limits, "small", "medium", "large"], [["AR", *numbers[6:]]])


CLASS_HEAD = (
    "class",
    "objects",
    "shown",
    "AP",
    "AP50",
    "AP75",
    "AR",
    "score of highest F1",
    "F1",
    "precision",
    "recall",
)


def class_cells(row: ClassRow) -> list[tuple[str, float | None]]:
    """A class's cells under CLASS_HEAD: text and number."""
    best = row.best
    shares = [row.AP, row.AP50, row.AP75, row.AR]
    at_best = (None,) * 3 if best is None else (best.f1, best.precision, best.recall)
    return [
        (row.name, None),
        (f"{row.objects:,}", float(row.objects)),
        (f"{row.shown:,}", float(row.shown)),
        *((percent(share), share) for share in shares),
        ("-" if best is None else f"{best.score:.3f}", None if best is None else best.score),
        *((percent(share), share) for share in at_best),
    ]


def _classes(analysis: Analysis) -> Iterator[str]:
    yield "<h2>Classes</h2>"
    yield paragraph(
        "Shown, here and in all that follows: detections of at least the score at which the class's F1 is highest at "
        "IoU 0.50, and of boxes that overlap by more than half the best one, of whichever class. Score, F1, precision "
        "and recall are counted before boxes of other classes are taken out.",
        "faint",
    )
    yield sorting_table("classes", CLASS_HEAD, [class_cells(row) for row in analysis.classes])
    names = [row.name for row in analysis.classes]
    if analysis.objects:
        curve = figures.precision_recall_figure(analysis.curves, names, [row.AP for row in analysis.classes])
        yield figure(figures.svgs(curve), label="Precision over recall: the mean over the classes, and the classes")


def _errors(analysis: Analysis) -> Iterator[str]:
    yield "<h2>Errors</h2>"
    counts = {kind: sum(each.count(kind) for each in analysis.judged) for kind in ERRORS}
    costs = {} if analysis.breakdown is None else analysis.breakdown.costs
    rows = [
        (
            KIND_NAMES[kind],
            f"{counts[kind]:,}",
            f"{100 * costs[KIND_NAMES[kind]]:.1f}" if KIND_NAMES[kind] in costs else "-",
            MEANINGS[KIND_NAMES[kind]],
        )
        for kind in ERRORS
    ]
    yield table(["kind", "how many", "AP50 it costs", "what that is"], rows, texts=(3,))
    yield paragraph(
        "How many: among the detections that are shown. What a kind costs: the points of AP50 that mending it alone "
        "would gain, counted over all detections, those of low scores too (TIDE): there an object is not missed that "
        "any box overlaps. The costs do not add up.",
        "faint",
    )
    if crowds := sum(each.count(CROWD) for each in analysis.judged):
        yield paragraph(f"{crowds:,} more lie in crowds, and are neither right nor wrong.", "faint")
    if analysis.breakdown is not None and analysis.objects:
        names = [row.name for row in analysis.classes]
        confusion = figures.confusion_figure(analysis.breakdown.confusion, names)
        caption = (
            "Rows: what the objects are. Columns: as what they were found at IoU 0.50, by the best box of whatever "
            "class. The last row: boxes that find nothing, also for their place or as duplicates. A shade is the share "
            "of its row."
        )
        if len(names) > figures.MOST_CLASSES:
            caption += f" The {figures.MOST_CLASSES} classes that are mistaken most often."
        yield figure(figures.svg(confusion), caption, "Confusion of the classes", shrinks=len(names) <= LEGIBLE)


def _scores(analysis: Analysis) -> Iterator[str]:
    if analysis.breakdown is None or not analysis.objects or not len(analysis.matching.scores):
        return
    yield "<h2>What a score is worth</h2>"
    yield paragraph(calibration_sentence(analysis.breakdown))
    if not analysis.breakdown.bins:
        return
    calibration = figures.calibration_figure(analysis.breakdown)
    yield figure(figures.svgs(calibration), label="Share of right detections by score, and detections by score")


def _edges(analysis: Analysis) -> Iterator[str]:
    if analysis.edges is None:
        return
    yield "<h2>How sure it is of an edge</h2>"
    yield paragraph(
        "The detector predicts a distribution for each edge of a box. Its spread, a standard deviation, is drawn as a "
        "whisker across the edge in the gallery."
    )
    yield paragraph(spread_sentence(analysis.edges))
    plot = figures.edges_figure(analysis.edges)
    yield figure(figures.svg(plot), label="Mean distance from the true edge by predicted spread")


def _gallery(subject: Subject, analysis: Analysis) -> Iterator[str]:
    shown = list(examples(analysis, subject.pictures))
    if not shown:
        return
    yield "<h2>The worst pictures of each kind of error</h2>"
    yield paragraph(
        "Left the truth, right what is shown. Vermilion: the error, blue the rest. "
        + ("" if analysis.shown.edge_std is None else "A whisker across an edge: its spread, from a pixel up. ")
        + "A click enlarges; arrow keys go on.",
        "faint",
    )
    unread = 0
    for kind in ERRORS:
        tiles = []
        for example in (each for each in shown if each.kind == kind):
            drawn = example_picture(example, analysis, TILE_PX)
            if drawn is None:
                unread += 1
                continue
            alternative = f"{KIND_NAMES[kind]}: {example.caption}"
            tag = image(jpeg(drawn, TILE_QUALITY), alternative, drawn.shape[1], drawn.shape[0])
            tiles.append(tile(tag, example.caption))
        if tiles:
            yield f"<h3>{text(KIND_NAMES[kind].capitalize())}: {text(MEANINGS[KIND_NAMES[kind]])}</h3>"
            yield f'<div class="tiles">{"".join(tiles)}</div>'
    if unread:
        yield paragraph(
            f"Left out: {counted(unread, 'example')} whose pictures could not be read, or have another size than their "
            "annotations say."
        )
    yield DIALOG


def _data(subject: Subject) -> Iterator[str]:
    if not subject.findings and not subject.labels:
        return
    yield "<h2>The data</h2>"
    if subject.labels:
        yield figure(subject.labels, "The training data.", "Boxes a class, sizes, places and shapes of the boxes")
    if subject.findings:
        yield paragraph("What gfl.data check says of it, without decoding the pictures.", "faint")
    for split, found in subject.findings.items():
        yield f"<h3>{text(split.capitalize())}</h3>"
        yield findings_list(found)


def _how(subject: Subject) -> Iterator[str]:
    if subject.commands:
        yield "<h2>How to go on</h2>"
        yield from (f"<p>{text(purpose)}</p><pre>{text(command)}</pre>" for purpose, command in subject.commands)
    if subject.usual:
        yield "<h2>Settings</h2>"
        yield paragraph(f"All are those of {subject.usual}" + (", but for these:" if subject.settings else "."))
    if subject.settings:
        yield table(["setting", "here", "there"], subject.settings, texts=(1, 2))
    if subject.recipe:
        yield folded("The recipe in short", table(["setting", "value"], subject.recipe, texts=(1,)))
    if subject.environment:
        yield "<h2>Where it ran</h2>"
        rows = "".join(
            f"<tr><th scope=row>{text(name)}</th><td>{text(str(value))}</td></tr>"
            for name, value in subject.environment.items()
        )
        yield folded("Machine, versions and the command", f'<div class="wide"><table>{rows}</table></div>')
