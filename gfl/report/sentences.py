"""What the numbers of a report say, in sentences that can be read aloud."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gfl.report.analysis import Analysis
from gfl.report.breakdown import Breakdown
from gfl.report.edges import ENOUGH, EdgeSummary
from gfl.report.kinds import BACKGROUND
from gfl.report.tables import percent
from gfl.words import counted

MEANINGS = {
    "wrong class": "boxes on an object of another class",
    "wrong place": "boxes that overlap an object of their class too little, at IoU 0.1 to 0.5",
    "wrong class and place": "boxes that overlap an object of another class too little",
    "duplicate": "second boxes on an object that has one",
    "background": "boxes where no object is annotated",
    "missed": "objects that no right box finds; a wrong one may lie on them",
}
HARDLY = 0.1  # AP50 of a class that is hardly ever found
STRONG, WEAK = 0.5, 0.2  # correlations from which the spread tells much, or something
ROUGHLY = 0.1  # how far the share within one spread may lie from a normal distribution's without a word on it
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
    if shown == 1:
        shows = f"the one box that it shows is {'right' if right else 'wrong'}"
    else:
        rightly = "none" if not right else "all" if right == shown else whole_percent(right / shown)
        shows = f"of the {shown:,} boxes that it shows {rightly} are right"
    return (
        f"Of {counted(objects, 'object')} on {pictures} the detector finds {right:,} "
        f"({whole_percent(right / objects)}), and {shows} (AP {percent(metrics.AP)}, AP50 {percent(metrics.AP50)})."
    )


def whole_percent(share: float) -> str:
    """0.997 -> '99%': 0% and 100% are said of none and of all alone.

    Example:
        >>> [whole_percent(share) for share in (0.0, 0.001, 0.126, 0.999, 1.0)]
        ['0%', '1%', '13%', '99%', '100%']
    """
    return f"{share:.0%}" if share in (0.0, 1.0) else f"{min(max(share, 0.01), 0.99):.0%}"


def cost_sentence(analysis: Analysis) -> str:
    """Which kinds of error cost most AP."""
    breakdown = analysis.breakdown
    if not analysis.objects:
        return "So no kind of error could be told from another."
    if breakdown is None:
        return "What each kind of error costs was not counted, for hotcoco is not installed (pip install hotcoco)."
    if not breakdown.costs:
        return "So all objects are missed, and there is no other error to count."
    ranked = sorted(breakdown.costs.items(), key=lambda entry: -entry[1])
    (worst, cost), (second, next_cost) = ranked[:2]
    if cost < NOTEWORTHY:
        return "Mending no single kind of error alone would gain a tenth of a point of AP50."
    text = f"What costs most is {_kind(worst)}: without it AP50 would be {100 * cost:.1f} points higher"
    if next_cost >= NOTEWORTHY:
        text += f"; next comes {_kind(second)} with {100 * next_cost:.1f}"
    return text + "."


def _kind(name: str) -> str:
    return f"“{name}” ({MEANINGS[name]})"


def exactness_sentence(analysis: Analysis) -> str:
    """How far the edges lie from the true ones, and whether their spread says so; else the best and hardest class."""
    if analysis.edges is not None:
        tighter = f"{percent(analysis.metrics.AP75)} at IoU 0.75 and {percent(analysis.tight_ap)} at 0.90"
        return f"Of closer fits AP is {tighter}: {edges_sentence(analysis.edges)}"
    if not analysis.right:
        return "No box is right, so how exact the boxes are cannot be told."
    measured = [row for row in analysis.classes if row.AP is not None]
    ranked = sorted(measured, key=lambda row: row.AP or 0.0)
    hardest, best = ranked[0], ranked[-1]
    if percent(best.AP) == percent(hardest.AP):
        return f"How exact the boxes are is told by AP75: {percent(analysis.metrics.AP75)}."
    return f"The best class is {best.name} (AP {percent(best.AP)}), the hardest {hardest.name} ({percent(hardest.AP)})."


def edges_sentence(edges: EdgeSummary) -> str:
    """Predicted spread beside the distance from the true edge, as the end of a sentence."""
    text = f"the edges of right boxes lie {edges.error_px:.1f} px from the true ones on average"
    if edges.is_spread_constant:
        return text + "; their predicted spread is always the same, and says nothing about that."
    if not math.isfinite(edges.correlation):
        return text + ", all of them alike, so there is nothing for their predicted spread to tell."
    if edges.correlation >= STRONG:
        tells = "tells well which edges are far off"
    elif edges.correlation >= WEAK:
        tells = "tells something about which edges are far off"
    elif edges.correlation > -WEAK:
        tells = "tells little about which edges are far off"
    else:
        tells = "is smaller, not larger, where edges are far off"
    text += f", and the spread predicted for an edge {tells} (rank correlation {edges.correlation:.2f}"
    return text + (f", but of {edges.edges:,} edges alone: too few to rely on)." if edges.edges < ENOUGH else ").")


def spread_sentence(edges: EdgeSummary) -> str:
    """How often an edge lies within its spread."""
    sure, unsure = edges.groups[0], edges.groups[-1]
    within = (
        f"{whole_percent(edges.within_one)} of {edges.edges:,} edges lie within one predicted spread of the true edge, "
        f"{whole_percent(edges.within_two)} within two (of a normal distribution 68% and 95% would)."
    )
    if edges.is_spread_constant:
        return within
    if edges.within_one > 0.68 + ROUGHLY:
        within += (
            " So the spread is larger than the errors: it tells which edges are less sure, not how far off they are."
        )
    elif edges.within_one < 0.68 - ROUGHLY:
        within += " So the spread is smaller than the errors: edges are less sure than it says."
    return (
        f"{within} The tenth of them with the smallest spread ({sure.spread_px:.1f} px on average) lies "
        f"{sure.error_px:.1f} px off the true edges, the tenth with the largest ({unsure.spread_px:.1f} px) "
        f"{unsure.error_px:.1f} px."
    )


def calibration_sentence(breakdown: Breakdown) -> str:
    """What a score is worth."""
    if not breakdown.bins:
        return "The scores do not lie between 0 and 1, so they are compared with no share of right detections."
    highest = breakdown.bins[-1]
    if highest.detections == 1:
        told = f"The detection with the highest score ({highest.score:.2f}) is {'right' if highest.right else 'wrong'}."
    else:
        told = (
            f"Of the {highest.detections:,} detections with the highest scores ({highest.score:.2f} on average) "
            f"{whole_percent(highest.right)} are right."
        )
    return (
        f"{told} A score of GFL is trained to be the overlap of a box with its object, so it is not the chance of "
        "being right at IoU 0.5: over all detections, shown or not, the two lie "
        f"{breakdown.calibration_error:.2f} apart."
    )


def hints(analysis: Analysis) -> Iterator[str]:
    """What a person may want to look into, as far as the numbers give reason to."""
    costs = {} if analysis.breakdown is None else analysis.breakdown.costs
    shown = sum(each.count(BACKGROUND) for each in analysis.judged)
    if shown and costs.get("background", 0.0) >= NOTEWORTHY and costs["background"] == max(costs.values()):
        yield (
            "Look at the gallery's pictures of kind “background” first: boxes with high scores where nothing is "
            "annotated may be objects that the annotations lack."
        )
    without = [row.name for row in analysis.classes if not row.objects]
    if without:
        yield f"{counted(len(without), 'class', 'classes')} without an object here, not measured: {_listed(without)}."
    never = [row.name for row in analysis.classes if row.objects and not row.shown]
    if never:
        yield f"{counted(len(never), 'class', 'classes')} of which nothing is shown: {_listed(never)}."
    hardly = [row.name for row in analysis.classes if row.AP50 is not None and row.AP50 < HARDLY]
    measured = sum(row.AP50 is not None for row in analysis.classes)
    if hardly and len(hardly) < measured:
        yield (
            f"{_listed(hardly)}: hardly ever found (AP50 below {100 * HARDLY:.0f}). Each such class takes at least "
            f"{100 * (1 - HARDLY) / measured:.0f} points off AP50, which is the mean over the classes."
        )
    few = [row.name for row in analysis.classes if 0 < row.objects < 10]
    if few:
        rough = "its AP is" if len(few) == 1 else "their APs are"
        yield f"Fewer than ten objects of {_listed(few)}: {rough} rough."


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
