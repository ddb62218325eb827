"""What a value of a COCO file means: numbers that a tool wrote as text are numbers, what is no number is refused.

Each function raises ValueError for what it cannot mean; `coco_json.Table` says then which entry of which file it is.
"""

from __future__ import annotations

import re

LARGEST_NUMBER = 1e9  # pixels: far beyond any picture; also false for NaN and infinity
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}(\.0*)?")
FALSE_WORDS, TRUE_WORDS = ("", "0", "false", "no"), ("1", "true", "yes")


def integer(value: object) -> int:
    """An id: 3, 3.0 (spreadsheets write it so) and "3" (many tools do); true is no id."""
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    raise ValueError


def number(value: object) -> float:
    """A finite number, or a text that is one."""
    if isinstance(value, str):
        value = float(value)
    if isinstance(value, (int, float)) and type(value) is not bool and abs(value) < LARGEST_NUMBER:
        return float(value)
    raise ValueError


def number_or_nan(value: object) -> float:
    """As `number`; NaN where the field is absent, null or an empty text."""
    return float("nan") if value is None or value == "" else number(value)


def side(value: object) -> int:
    """A height or width in px; 0 where the file does not know it: absent, null, empty or 0."""
    found = 0 if value is None or value == "" else integer(value)
    if not 0 <= found < LARGEST_NUMBER:
        raise ValueError
    return found


def flag(value: object) -> bool:
    """Whether a mark is set: absent, null, 0, "0" and "false" are not; 1, true and "1" are."""
    if value is None or type(value) is bool:
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in FALSE_WORDS:
            return False
        if word in TRUE_WORDS:
            return True
    return number(value) != 0


def box(value: object) -> tuple[float, float, float, float]:
    """x, y, width, height in px: four numbers, or texts that are numbers."""
    if isinstance(value, list) and len(value) == 4:
        if {int, float}.issuperset(map(type, value)) and sum(map(abs, value)) < LARGEST_NUMBER:  # the usual, fast
            return tuple(value)
        x, y, width, height = map(number, value)
        return x, y, width, height
    raise ValueError


def text(value: object) -> str:
    """A text with at least one character; a number as its digits, for a class may be called 7."""
    if isinstance(value, str) and value.strip():
        return value
    if type(value) is int:
        return str(value)
    raise ValueError
