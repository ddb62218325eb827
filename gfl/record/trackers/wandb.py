"""Weights & Biases: a run at wandb.ai or at the server of WANDB_BASE_URL; with WANDB_MODE=offline, a local one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from types import ModuleType

from gfl.errors import InputError
from gfl.record.trackers.interface import PROJECT, Ended, Line, Started, store_id, stored_id

NAME = "wandb"
INIT_TIMEOUT_S = 20.0  # wandb waits for it even when the program ends
EXIT_CODES: dict[Ended, int] = {"finished": 0, "stopped": 130, "failed": 1}


class WeightsAndBiases:
    """Sends by wandb's own process. A run that goes on has the same id."""

    def __init__(self, package: ModuleType) -> None:
        """package: wandb. Raises InputError where it would ask for a key on the terminal."""
        self._package = package
        self._offline = os.environ.get("WANDB_MODE", "online") != "online"
        if not self._offline and not package.login(prompt=False, verify=False):
            raise InputError(
                "TRACKERS has 'wandb', which knows no key of an account; expected one: call `wandb login`, or set "
                "WANDB_MODE=offline and send the run later by `wandb sync`"
            )

    def start(self, run: Started) -> str:
        known = stored_id(run.folder, NAME) if run.step else None
        self._run = self._package.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            id=known,
            resume=None if known is None else "allow",
            # What the run prints is in train.log; wandb would take the console, and print on it.
            settings=self._package.Settings(console="off", silent=True, init_timeout=INIT_TIMEOUT_S),
        )
        if known is not None:
            self._run.config.update(dict(run.settings), allow_val_change=True)
        store_id(run.folder, NAME, self._run.id)
        if self._offline:
            return f"wandb sync {shlex.quote(os.path.dirname(self._run.dir))}"
        return str(self._run.url)

    def steps(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._run.log(dict(line.numbers), step=line.step)

    def evaluation(self, line: Line) -> None:
        self.steps([line])

    def end(self, how: Ended) -> None:
        self._run.finish(exit_code=EXIT_CODES[how])
