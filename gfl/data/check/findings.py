"""What a look at a data set finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_EXAMPLES = 10


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found, in one sentence."""

    name: str  # for programs: 'missing_pictures'
    count: int  # how many there are
    text: str  # for people: what, how many, what becomes of them and how to mend it
    examples: tuple[str, ...] = ()  # at most MOST_EXAMPLES
    is_note: bool = False  # worth knowing, and no fault
    is_fatal: bool = False  # training refuses the data set


def finding(name: str, what: str, becomes: str, examples: Sequence[str], *, is_note: bool = False) -> list[Finding]:
    """One finding where there is an example, none otherwise: what was found, how often, and what becomes of it."""
    if not examples:
        return []
    text = f"{what} ({len(examples):,}): {becomes}"
    return [Finding(name, len(examples), text, tuple(examples[:MOST_EXAMPLES]), is_note)]


def lines(findings: Iterable[Finding]) -> Iterable[str]:
    """Each finding in a line, its examples below."""
    for each in findings:
        mark = "unusable" if each.is_fatal else "note" if each.is_note else "finding"
        yield f"{mark}: {each.text}"
        yield from (f"    {example}" for example in each.examples)
        if each.count > len(each.examples) > 0:
            yield f"    ... and {each.count - len(each.examples):,} more"
