"""The shape of a static input: what a canvas is, and what its sides are multiples of. Pure Python."""

from __future__ import annotations

from typing import TypeAlias

Canvas: TypeAlias = tuple[int, int]  # height, width in px
MOST_SIDE_PX = 65_536
MOST_PICTURES = 65_536  # of a batch
CANVAS_MULTIPLE = 32  # as the reference pads: every stride up to that of P5 divides it
MOST_PIXELS = 180_000_000  # of a picture that is decoded: 540 MB; about where Pillow, too, takes it for an attack
PIXELS_VARIABLE = "GFL_MOST_PIXELS"  # of the environment: another limit
