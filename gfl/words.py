"""Numbers and lists as people read them. No package beyond Python is imported."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

# ASCII's and Latin-1's control characters, marks and embeddings of right-to-left text, line and paragraph separators,
# and halves of surrogate pairs.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def headline(label: str, *parts: str) -> str:
    """A line of a run's head: the label in a column of its own, the parts that are not empty joined by bars."""
    return printable(f"{label:<8}" + " | ".join(part for part in parts if part))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1, 'box', 'boxes' -> '1 box'; 8310 -> '8,310 boxes'. The plural adds an s unless it is given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def class_shares(boxes: Mapping[str, int], most: int = 5) -> str:
    """Boxes a class -> '3 classes (cat 61%, dog 30%, fox 9%)', the largest first, the rest counted."""
    total = sum(boxes.values())
    ranked = sorted(boxes.items(), key=lambda entry: -entry[1])
    shown = [f"{name} {number / total:.0%}" if total else name for name, number in ranked[:most]]
    if len(ranked) > most:
        shown.append(f"{len(ranked) - most} more")
    return counted(len(boxes), "class", "classes") + (f" ({', '.join(shown)})" if shown else "")


def duration(seconds: float) -> str:
    """Seconds -> '0:07', '41:10', '2:05:00', '3d 02:05'."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory(amount_bytes: int) -> str:
    """Bytes -> '740 MB', '9.1 GB' (of 1024**3)."""
    gigabytes = amount_bytes / 1024**3
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{amount_bytes / 1024**2:.0f} MB"


def short_number(value: float) -> str:
    """A loss in two or three figures: .412 -> '.41', 1.234 -> '1.23', 45.67 -> '45.7', .001 -> '1e-03'."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.0e}"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def printable(text: str) -> str:
    r"""A file's name as it can be printed in one line: control characters, also those of other line ends and of the
    direction of writing, as escapes; so are bytes that are no UTF-8, which Python keeps as lone surrogates.

    Example:
        >>> print(printable("a\x1b[2J\n.jpg"), printable("caf\udce9.jpg"))
        a\x1b[2J\n.jpg caf\xe9.jpg
    """
    return UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode("ascii")
