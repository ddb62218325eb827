"""What a run over pictures took, and what is to be said of the pictures as they were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gfl.data.canvas import NOT_SHRUNK, Shrinkage, judge_shrinkage
from gfl.shapes import Canvas
from gfl.words import counted


class Load(NamedTuple):
    """What went through one canvas."""

    pictures: int
    runs: int


@dataclass
class Timings:
    """Where the time went, in seconds of wall time."""

    seconds: float = 0.0  # from the first reading to the last result
    first_s: float | None = None  # to the first result; None without one
    decode_s: float = 0.0  # reading, decoding, resizing, placing on the canvas: the sum over the readers
    run_s: list[float] = field(default_factory=list)  # of each run of the model
    post_s: float = 0.0  # outputs into results and `on_result`: the sum over the writers
    loads: dict[Canvas, Load] = field(default_factory=dict)
    sizes: Counter[Canvas] = field(default_factory=Counter)  # pictures by the size that the model's resize rule gives
    shrinkage: Shrinkage = NOT_SHRUNK  # what the model's canvases did to them
    firsts: int = 0  # pictures whose file holds more, which are not read
    full: int = 0  # pictures with as many detections as the model gives, all of them confident

    @property
    def shares(self) -> dict[str, float]:
        """Each part's share of the three together; all zero where nothing was done."""
        parts = {"decode": self.decode_s, "run": sum(self.run_s), "post": self.post_s}
        total = sum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}

    def count(self, more: Counter[Canvas], canvases: Sequence[Canvas] | None) -> None:
        """Judge what the canvases did to the pictures, and to more of these sizes."""
        self.sizes.update(more)
        self.shrinkage = judge_shrinkage(list(self.sizes), canvases, list(self.sizes.values()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of the pictures as they were read."""
        found = []
        if self.shrinkage.pictures:
            found.append(f"{self.shrinkage.sentence()}; export it too ({self.shrinkage.flags})")
        if self.firsts:
            one = self.firsts == 1
            found.append(
                f"{counted(self.firsts, 'file')} {'holds' if one else 'hold'} several pictures (animations or pages), "
                f"of which the first {'was' if one else 'were'} taken"
            )
        if self.full:
            found.append(
                f"{counted(self.full, 'picture')} {'has' if self.full == 1 else 'have'} as many confident detections "
                "as the model gives at most, and may hold more; raise postprocess.PredictConfig.max_detections"
            )
        return tuple(found)
