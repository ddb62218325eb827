"""The names in TRACKERS -> trackers that can begin: their packages are there, and what they need to know is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from gfl.errors import InputError, first_line
from gfl.packages import import_package
from gfl.record.trackers.interface import Tracker
from gfl.record.trackers.mlflow import MLflow
from gfl.record.trackers.tensorboard import TensorBoard
from gfl.record.trackers.trackio import Trackio
from gfl.record.trackers.wandb import WeightsAndBiases


class _Kind(NamedTuple):
    """A tracker by its name in TRACKERS, which is that of the extra and of the package too."""

    module: str  # to import
    make: Callable[[ModuleType], Tracker]


KINDS: Mapping[str, _Kind] = {
    "tensorboard": _Kind("torch.utils.tensorboard", TensorBoard),
    "mlflow": _Kind("mlflow", MLflow),
    "wandb": _Kind("wandb", WeightsAndBiases),
    "trackio": _Kind("trackio", Trackio),
}


def open_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """The trackers by name. Raises InputError for a package that is missing, and where one needs an account."""
    trackers: dict[str, Tracker] = {}
    for name in names:
        mend = f"call `pip install {name}`, or leave {name!r} out of TRACKERS"
        needed = f"TRACKERS has {name!r}, whose package"
        try:
            trackers[name] = KINDS[name].make(import_package(KINDS[name].module, needed, mend))
        except InputError:
            raise
        except Exception as error:  # a TypeError where protobuf does not fit; a key of a wrong form
            raise InputError(f"{needed} does not work ({first_line(error)}); {mend}") from error
    return trackers
