"""What the numbers of a report say, in sentences that can be read aloud."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gfl.report.analysis import Analysis
from gfl.report.breakdown import Breakdown
from gfl.report.edges import EdgeSummary
from gfl.report.tables import percent
from gfl.words import counted

MEANINGS = {
    "wrong class": "boxes on an object of another class",
    "wrong place": "boxes of the right class that overlap their object too little, at IoU 0.1 to 0.5",
    "wrong class and place": "boxes that overlap an object of another class too little",
    "duplicate": "second boxes on an object that has one",
    "background": "boxes where no object is annotated",
    "missed": "objects without a box",
}
STRONG, WEAK = 0.5, 0.2  # correlations from which the spread tells much, or something
NOTEWORTHY = 0.0005  # AP: less shows as 0.0


def summary(analysis: Analysis) -> list[str]:
    """Three sentences: how much is found, what costs most, how exact the boxes are."""
    return [found_sentence(analysis), cost_sentence(analysis), exactness_sentence(analysis)]


def found_sentence(analysis: Analysis) -> str:
    """How many objects are found and how many boxes are right."""
    metrics, objects, right, shown = analysis.metrics, analysis.objects, analysis.right, analysis.counted
    pictures = counted(metrics.images, "picture")
    if not objects:
        return f"There is no object to find on the {pictures}, so nothing could be measured."
    if not shown:
        return f"Nothing was found of the {counted(objects, 'object')} on {pictures}."
    return (
        f"Of {counted(objects, 'object')} on {pictures} the detector finds {right:,} ({right / objects:.0%}), and of "
        f"the {counted(shown, 'box', 'boxes')} that it shows {_share(right, shown)} are right (AP "
        f"{percent(metrics.AP)}, AP50 {percent(metrics.AP50)})."
    )


def _share(part: int, whole: int) -> str:
    return "all" if part == whole else f"{part / whole:.0%}"


def cost_sentence(analysis: Analysis) -> str:
    """Which kinds of error cost most AP."""
    breakdown = analysis.breakdown
    if not analysis.objects:
        return "So no kind of error could be told from another."
    if breakdown is None:
        return "What each kind of error costs was not counted, for hotcoco is not installed (pip install hotcoco)."
    ranked = sorted(breakdown.costs.items(), key=lambda entry: -entry[1])
    (worst, cost), (second, next_cost) = ranked[:2]
    if cost < NOTEWORTHY:
        return "No single kind of error costs a tenth of a point of AP50."
    text = f"What costs most is {_kind(worst)}: without it AP50 would be {100 * cost:.1f} points higher"
    if next_cost >= NOTEWORTHY:
        text += f"; next comes {_kind(second)} with {100 * next_cost:.1f}"
    return text + "."


def _kind(name: str) -> str:
    return f"“{name}” ({MEANINGS[name]})"


def exactness_sentence(analysis: Analysis) -> str:
    """How far the edges lie from the true ones, and whether their spread says so; else the best and hardest class."""
    if analysis.edges is not None:
        return edges_sentence(analysis.edges)
    measured = [row for row in analysis.classes if row.AP is not None]
    if len(measured) < 2:
        return "The boxes come without the spread of their edges, so their exactness is told by AP75 alone: " + (
            f"{percent(analysis.metrics.AP75)}."
        )
    ranked = sorted(measured, key=lambda row: row.AP or 0.0)
    hardest, best = ranked[0], ranked[-1]
    return f"The best class is {best.name} (AP {percent(best.AP)}), the hardest {hardest.name} ({percent(hardest.AP)})."


def edges_sentence(edges: EdgeSummary) -> str:
    """Predicted spread beside the distance from the true edge."""
    text = f"The edges of right boxes lie {edges.error_px:.1f} px from the true ones on average"
    if not math.isfinite(edges.correlation):
        return text + "; their predicted spread is always the same, and says nothing about that."
    if edges.correlation >= STRONG:
        tells = "tells well which edges are far off"
    elif edges.correlation >= WEAK:
        tells = "tells something about which edges are far off"
    else:
        tells = "tells little about which edges are far off"
    return f"{text}, and the spread predicted for an edge {tells} (rank correlation {edges.correlation:.2f})."


def spread_sentence(edges: EdgeSummary) -> str:
    """How often an edge lies within its spread."""
    sure, unsure = edges.groups[0], edges.groups[-1]
    return (
        f"{edges.within_one:.0%} of {edges.edges:,} edges lie within one predicted spread of the true edge, "
        f"{edges.within_two:.0%} within two (of a normal distribution 68% and 95% would). The tenth of them with "
        f"the smallest spread ({sure.spread_px:.1f} px on average) lies {sure.error_px:.1f} px off the true edges, the "
        f"tenth with the largest ({unsure.spread_px:.1f} px) {unsure.error_px:.1f} px."
    )


def calibration_sentence(breakdown: Breakdown) -> str:
    """What a score is worth."""
    if not breakdown.bins:
        return "There are no detections, so no score to judge."
    highest = breakdown.bins[-1]
    return (
        f"Of the {counted(highest.detections, 'detection')} with the highest scores ({highest.score:.2f} on average) "
        f"{highest.right:.0%} are right. A score of this detector is the chance of the class times the quality of the "
        "box, so it is not the chance of being right at IoU 0.5: over all detections the two lie "
        f"{breakdown.calibration_error:.2f} apart."
    )


def hints(analysis: Analysis) -> Iterator[str]:
    """What a person may want to look into, as far as the numbers give reason to."""
    costs = {} if analysis.breakdown is None else analysis.breakdown.costs
    if analysis.objects and costs and max(costs, key=lambda kind: costs[kind]) == "background":
        yield (
            "Look at the gallery's pictures of kind “background” first: boxes with high scores where nothing is "
            "annotated are often objects that the annotations lack."
        )
    without = [row.name for row in analysis.classes if not row.objects]
    if without:
        yield f"{counted(len(without), 'class', 'classes')} without an object here, not measured: {_listed(without)}."
    never = [row.name for row in analysis.classes if row.objects and not row.shown]
    if never:
        yield f"{counted(len(never), 'class', 'classes')} of which nothing is shown: {_listed(never)}."
    few = [row.name for row in analysis.classes if 0 < row.objects < 10]
    if few:
        yield f"Fewer than ten objects of {_listed(few)}: those APs are rough."


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
