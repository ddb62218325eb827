"""The device, sizes and folder of a check, and how its parts run the project's programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gfl.npu_check.processes import Finished, run
from gfl.npu_check.report import Figures
from gfl.npu_check.sizes import Recipe, Sizes

ROOT = Path(__file__).resolve().parents[2]
NO_FALLBACK = {"TORCH_NPU_FALLBACK_CPU_DISABLE": "1"}  # makes torch_npu raise where an operator has no kernel


def python_path() -> str:
    """PYTHONPATH for the project's programs: its root, before what is set already, such as CANN's modules."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


class Failed(Exception):  # noqa: N818  # a verdict, not an error of the program
    """A part ran and its result is wrong. tail: the end of the log of the command that failed."""

    def __init__(self, reason: str, figures: Figures | None = None, tail: str = "") -> None:
        super().__init__(reason)
        self.figures: Figures = figures or {}
        self.tail = tail


class Skipped(Exception):  # noqa: N818  # likewise
    """A part cannot run here, for the reason given."""


@dataclass
class Check:
    """What the parts of a check have in common."""

    device: str  # cpu | cuda | npu
    devices: int
    providers: Sequence[str]  # of the installed onnxruntime
    sizes: Sizes
    folder: Path
    python: str
    soc_version: str | None = None  # of the NPU, for ATC
    commands: list[Finished] = field(default_factory=list)  # of the part that is running

    def python_program(self, log: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Finished:
        """Run Python, its output in `log`.log. Raises Failed unless it exits with 0 within `sizes.minutes`."""
        finished = run(
            (self.python, *arguments),
            self.folder / f"{log}.log",
            folder=self.folder,
            variables={"PYTHONPATH": python_path(), **self.sizes.variables, **(variables or {})},
            limit_s=60.0 * self.sizes.minutes,
        )
        self.commands.append(finished)
        if finished.code is None:
            raise Failed(f"took longer than {self.sizes.minutes:g} minutes and was ended", tail=finished.tail())
        if finished.code:
            how = f"exit {finished.code}" if finished.code > 0 else f"ended by signal {-finished.code}"
            raise Failed(f"{how}: {finished.last_line()}", tail=finished.tail())
        return finished

    def data(self, name: str) -> Path:
        """The folder of the generated pictures of a recipe."""
        return self.folder / "data" / name

    def train(self, name: str, recipe: Recipe, *bindings: str, checkpoint: Path | None = None, ranks: int = 1) -> Path:
        """Train on the device, with fallback to the CPU forbidden; returns the run's folder."""
        workdir = self.folder / name
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        start = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        flags = ["--gin_file", recipe.gin_file, "--workdir", str(workdir), *start, "--gin_bindings"]
        # A part that wants another precision says so: what is compared must not depend on what 'auto' is here.
        flags += [f"DATA_ROOT = {str(self.data(recipe.name))!r}", f"DEVICE = {self.device!r}", "PRECISION = 'fp32'"]
        flags += recipe.bindings
        self.python_program(name, *launcher, "-m", "gfl.train", *flags, *bindings, variables=NO_FALLBACK)
        return workdir

    def detect(self, name: str, model: Path, pictures: Path, provider: str, *more: str) -> dict[str, object]:
        """Run infer/run.py, with `more` flags; returns the content of its summary.json."""
        output = self.folder / name
        flags = ["--model", str(model), "--input", str(pictures), "--output", str(output), "--provider", provider]
        self.python_program(name, "-m", "infer.run", *flags, *more, variables=NO_FALLBACK)
        summary: dict[str, object] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        return summary

    def need(self, *paths: Path) -> None:
        """Raise Skipped unless earlier parts have written these files or folders."""
        for path in paths:
            if not path.exists():
                raise Skipped(f"{path.relative_to(self.folder)} is not there: the part that writes it did not pass")
