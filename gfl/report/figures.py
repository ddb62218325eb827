"""The plots of a run and of an evaluation, by matplotlib: as PNG files, and as SVG that follows a page's light or dark.

No window is opened and no global state of matplotlib is touched, so that a training run may draw in any thread.
Colours are those of Okabe and Ito (2008), which everyone can tell apart; lines also differ in dash.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gfl.data.coco import CocoData
from gfl.data.coco_json import Floats
from gfl.data.pictures import boxes_a_label, parts
from gfl.report.breakdown import Breakdown
from gfl.report.coco_eval import distinct_names
from gfl.report.coco_matching import Curves
from gfl.report.edges import EdgeSummary
from gfl.words import printable

if TYPE_CHECKING:  # half a second to import: programs that draw nothing start faster without it
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# In a PNG these are the colours; in an SVG on a page they become the variables of its style.
INK, PAPER, FAINT, RULE = "#1b1f25", "#fffffe", "#6a727c", "#d8dde3"
_VARIABLES = {INK: "var(--ink)", PAPER: "none", FAINT: "var(--faint)", RULE: "var(--rule)"}
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
LINES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"), (SKY, "--"))
MOST_POINTS = 400  # of a curve over steps: more are averaged
MOST_CLASSES = 20  # shown by name
CELLS = 32  # of a map of positions or sizes, a side


# It tells once a machine that it looks through the fonts; a run has better things to say.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def png(figure: Figure) -> bytes:
    """The picture of a figure."""
    written = io.BytesIO()
    with _any_letters():
        figure.savefig(written, format="png", dpi=110)
    return written.getvalue()


@contextmanager
def _any_letters() -> Iterator[None]:
    """Letters that matplotlib's font lacks become boxes, without a warning each; in an SVG the browser has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def svg(figure: Figure, part: Bbox | None = None) -> str:
    """An <svg> element in the colours of the page that it is put into, its text as text.

    part: what to show of the figure, inches; None: all.
    """
    from matplotlib import rc_context

    written = io.StringIO()
    # The same figure gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gfl"}), _any_letters():
        figure.savefig(written, format="svg", bbox_inches=part, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def svgs(figure: Figure) -> list[str]:
    """As `svg`, each axes by itself, so that a page can put them side by side or, on a phone, below each other."""
    figure.draw_without_rendering()  # places the axes
    figure.set_layout_engine("none")
    parts = []
    for axes in figure.axes:
        for other in figure.axes:
            other.set_visible(other is axes)
        inches = figure.get_tightbbox().padded(0.04)
        parts.append(svg(figure, inches))
    return parts


def panels(columns: int, rows: int = 1, *, width: float = 4.4, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with bare, quiet axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", facecolor=PAPER)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_facecolor(PAPER)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(FAINT)
        axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=8)
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, list(grid.flat)


def _titled(axes: Axes, title: str, across: str = "", up: str = "") -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(across, fontsize=8, color=FAINT)
    axes.set_ylabel(up, fontsize=8, color=FAINT)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def run_figure(
    steps: Sequence[Mapping[str, object]], evaluations: Sequence[Mapping[str, object]], batch: int
) -> Figure:
    """The course of a run: losses, AP, learning rate, pictures a second.

    steps, evaluations: the lines of log.jsonl without and with AP. batch: pictures a step.
    """
    figure, (loss, precision, rate, speed) = panels(2, 2)
    at = _column(steps, "step")
    for name, (colour, dash) in zip(("loss", "qfl", "dfl", "giou"), LINES, strict=False):
        loss.plot(*_averaged(at, _column(steps, name)), dash, color=colour, linewidth=1.3, label=name)
    _titled(loss, "losses (averaged over neighbouring steps)", "step")
    when = _column(evaluations, "step")
    for name, (colour, dash) in zip(("AP", "AP50", "AP75"), LINES, strict=False):
        values = _column(evaluations, name)
        values[values < 0] = np.nan
        precision.plot(when, 100 * values, dash, color=colour, marker="o", markersize=3, linewidth=1.3, label=name)
    precision.set_ylim(0, 100)
    last = max(at.max(initial=1), when.max(initial=1))
    for axes in (loss, precision, rate, speed):
        axes.set_xlim(-0.02 * last, 1.02 * last)
    _titled(precision, "validation, %", "step")
    rate.plot(*_averaged(at, _column(steps, "lr")), color=BLUE, linewidth=1.3)
    _titled(rate, "learning rate", "step")
    speed.plot(*_averaged(at, _column(steps, "img_per_s")), color=BLUE, linewidth=1.3)
    speed.set_ylim(bottom=0)
    _titled(speed, f"pictures a second ({batch} a step)", "step")
    for axes in (loss, precision):
        if axes.lines:
            _legend(axes)
    if len(evaluations) == 0:
        precision.text(
            0.5, 0.5, "not evaluated yet", ha="center", color=FAINT, fontsize=9, transform=precision.transAxes
        )
    return figure


def _column(rows: Sequence[Mapping[str, object]], name: str) -> Floats:
    values = [row.get(name) for row in rows]
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], dtype=np.float64)


def _averaged(at: Floats, values: Floats) -> tuple[Floats, Floats]:
    """At most MOST_POINTS means of neighbours; those that are not finite are left out."""
    sound = np.isfinite(values)
    at, values = at[sound], values[sound]
    if len(values) <= MOST_POINTS:
        return at, values
    parts = np.array_split(np.arange(len(values)), MOST_POINTS)
    return np.array([at[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def labels_figure(data: CocoData) -> Figure:
    """What a data set holds: boxes a class, their sizes, and where they lie."""
    names = distinct_names(data.truth.class_names)
    counts = dict(zip(names, boxes_a_label(data.pictures, len(names)).tolist(), strict=True))
    figure, (classes, sizes, places, shapes) = panels(2, 2)
    ranked = sorted(counts.items(), key=lambda entry: -entry[1])
    shown = ranked[:MOST_CLASSES]
    if len(ranked) > len(shown):
        rest = ranked[MOST_CLASSES:]
        shown.append((f"{len(rest)} more", sum(count for _, count in rest)))
    classes.barh(range(len(shown)), [count for _, count in shown], color=BLUE)
    classes.set_yticks(range(len(shown)), [_shortened(name) for name, _ in shown], fontsize=8 if len(shown) < 12 else 6)
    classes.invert_yaxis()
    _titled(classes, "boxes a class")
    bins, bars, places_map, shapes_map = _boxes_drawn(data)
    sizes.hist(bins[:-1].tolist(), bins=bins.tolist(), weights=bars.tolist(), color=BLUE)
    sizes.set_xscale("log", base=2)
    sizes.xaxis.set_major_formatter("{x:.0f}")
    _titled(sizes, "side of a box (root of its area)", "px", "boxes")
    _density(places, places_map)
    places.invert_yaxis()
    _titled(places, "centres of the boxes in their pictures", "share of the width", "share of the height")
    _density(shapes, shapes_map)
    _titled(shapes, "widths and heights", "share of the width", "share of the height")
    return figure


def _boxes_drawn(data: CocoData) -> tuple[Floats, Floats, Floats, Floats]:
    """Edges of the bars of sizes in px, their heights, and maps (CELLS, CELLS) of centres and of shapes.

    Counted some pictures at a time: the boxes of millions of pictures take gigabytes.
    """
    edges = 2.0 ** np.arange(0, 31, 0.5)
    bars, smallest, largest = np.zeros(len(edges) - 1), 2.0, 2.0
    places, shapes = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
    for part in parts(data.pictures):
        boxes_xyxy = part.boxes_xyxy.astype(np.float64)
        sides_wh = np.repeat(part.sizes_hw[:, ::-1].astype(np.float64), part.counts, axis=0)
        wide_high = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
        side = np.sqrt(wide_high[:, 0] * wide_high[:, 1]).clip(1)
        bars += np.histogram(side, edges)[0]
        smallest, largest = float(side.min(initial=smallest)), float(side.max(initial=largest))
        places += _cells((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 / sides_wh)
        shapes += _cells(wide_high / sides_wh)
    first, last = int(2 * np.floor(np.log2(smallest))), int(2 * np.ceil(np.log2(largest)))
    bars[last - 1] += bars[last]  # sides of the very last edge, which closes the last bar
    return edges[first : last + 1], bars[first:last], places, shapes


def _cells(points: Floats) -> Floats:
    """(N,2) points -> how many lie in each cell of [0,1] x [0,1]."""
    x, y = points.clip(0, 1).T
    return np.asarray(np.histogram2d(x, y, bins=CELLS, range=((0, 1), (0, 1)))[0], np.float64)


def _density(axes: Axes, counts: Floats) -> None:
    """A map of how many values lie where; the square root makes rare ones visible."""
    edges = np.linspace(0, 1, CELLS + 1)
    shown = np.ma.masked_equal(np.sqrt(counts).T, 0)
    axes.pcolormesh(edges, edges, shown, cmap=_shades(), vmin=-0.3 * counts.max() ** 0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)


def _shades() -> ListedColormap:
    """From nothing to BLUE: on light and on dark paper what is rare stays near the paper."""
    from matplotlib.colors import ListedColormap, to_rgba_array

    return ListedColormap(to_rgba_array([BLUE] * 64, np.linspace(0, 1, 64)))


def _shortened(name: str, most: int = 18) -> str:
    """A class name that fits beside an axis; a dollar sign would begin a formula."""
    name = printable(name)
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def precision_recall_figure(measured: Curves, names: Sequence[str], per_class: Sequence[float | None]) -> Figure:
    """Precision over recall: the mean over classes at three overlaps, and the classes at IoU 0.5."""
    figure, (mean, classes) = panels(2)
    recalls = np.linspace(0, 1, measured.precision.shape[1])
    precision = np.where(measured.precision[:, :, :, 0, -1] < 0, np.nan, measured.precision[:, :, :, 0, -1])
    present = ~np.isnan(precision[0]).all(axis=0)
    if present.any():
        for (colour, dash), (name, place) in zip(LINES, (("IoU 0.50", 0), ("0.75", 5), ("0.90", 8)), strict=False):
            mean.plot(recalls, precision[place][:, present].mean(axis=1), dash, color=colour, linewidth=1.4, label=name)
        _legend(mean)
    ranked = [index for index in sorted(range(len(names)), key=lambda k: -(per_class[k] or 0)) if present[index]]
    named = ranked if len(ranked) <= len(LINES) else [*ranked[:3], *ranked[-3:]]
    for index in ranked:
        if index not in named:
            classes.plot(recalls, precision[0][:, index], color=RULE, linewidth=0.6)
    for index, (colour, dash) in zip(named, LINES, strict=False):
        label = _shortened(names[index])
        classes.plot(recalls, precision[0][:, index], dash, color=colour, linewidth=1.4, label=label)
    if named:
        _legend(classes)
    _titled(mean, "mean over the classes", "recall", "precision")
    _titled(classes, "classes at IoU 0.50" + ("" if named == ranked else ": best and worst"), "recall", "precision")
    for axes in (mean, classes):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    return figure


def confusion_figure(confusion: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Objects of a class (rows) by what they were found as (columns), each row as shares of its objects."""
    order = most_confused(confusion, MOST_CLASSES)
    labels = [*(_shortened(names[index], 14) for index in order[:-1]), "nothing"]
    shown = confusion[np.ix_(order, order)]
    shares = shown / np.maximum(confusion.sum(axis=1)[order], 1)[:, None]
    side = 2.4 + 0.36 * len(order)
    figure, (axes,) = panels(1, width=side + 0.6, height=side)
    axes.imshow(shares, cmap=_shades(), vmin=0, vmax=1)
    axes.grid(visible=False)
    size = 9 if len(order) < 8 else 6
    axes.set_xticks(range(len(order)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(order)), labels, fontsize=8)
    for row, column in zip(*np.nonzero(shown), strict=True):
        dark = shares[row, column] > 0.55
        text = f"{shown[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="#ffffff" if dark else INK)
    _titled(axes, "at the scores of highest F1", "found as", "is")
    return figure


def most_confused(confusion: NDArray[np.int64], most: int) -> list[int]:
    """Rows to show: all classes, or those that are taken for others most often; background last."""
    background = len(confusion) - 1
    classes = confusion[:-1, :-1]
    wrong = classes.sum(axis=0) + classes.sum(axis=1) - 2 * np.diag(classes)
    ranked = np.argsort(-wrong, kind="stable")[:most]
    return [*sorted(ranked.tolist()), background]


def calibration_figure(breakdown: Breakdown) -> Figure:
    """What share of the detections of a score is right, and how many there are."""
    figure, (right, counts) = panels(2, width=3.6, height=2.9)
    scores = [each.score for each in breakdown.bins]
    right.plot([0, 1], [0, 1], ":", color=FAINT, linewidth=1, label="score = share")
    right.plot(scores, [each.right for each in breakdown.bins], color=BLUE, marker="o", markersize=4, label="measured")
    right.set_xlim(0, 1)
    right.set_ylim(0, 1.02)
    _legend(right)
    _titled(right, "share that is right at IoU 0.50", "score")
    counts.bar(
        [each.lowest + 0.05 for each in breakdown.bins], [each.detections for each in breakdown.bins], 0.09, color=BLUE
    )
    counts.set_yscale("log")
    counts.set_ylim(bottom=0.5)  # one detection has a bar too
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.minorticks_off()
    counts.set_xlim(0, 1)
    _titled(counts, "detections (logarithmic)", "score")
    return figure


def edges_figure(edges: EdgeSummary) -> Figure:
    """How far edges lie from the true ones, by the spread that was predicted for them."""
    figure, (axes,) = panels(1, width=5.2, height=3.2)
    spread = [group.spread_px for group in edges.groups]
    distance = [group.error_px for group in edges.groups]
    most = 1.05 * max(*spread, *distance)
    axes.plot([0, most], [0, most], ":", color=FAINT, linewidth=1, label="distance = spread")
    axes.plot(spread, distance, color=BLUE, marker="o", markersize=4, label="a tenth of the edges each")
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    _legend(axes)
    _titled(axes, "edges of right detections", "predicted spread, px", "mean distance from the true edge, px")
    return figure
