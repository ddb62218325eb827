"""The shape of a static input: what a canvas is, and what its sides are multiples of. Pure Python."""

from __future__ import annotations

from typing import TypeAlias

Canvas: TypeAlias = tuple[int, int]  # height, width in px
MOST_SIDE_PX = 65_536
MOST_PICTURES = 65_536  # of a batch
CANVAS_MULTIPLE = 32  # as the reference pads: every stride up to that of P5 divides it
