"""What each worker of a job takes of a cluster's cores and devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gfl.errors import InputError
from infer.bulk.detector import READERS
from infer.pipeline import MOST_READERS

SPARE_CPUS = 2  # of those that Ray counts: one filters what is done, one is for reading lists and writing parts
DEVICES = {"cuda": "GPU", "cann": "NPU"}  # of which a worker takes one, by provider; the others run on CPUs


class Share(NamedTuple):
    """What a worker takes of Ray's resources."""

    workers: int
    cpus: float
    device: str | None  # of DEVICES, one of it
    readers: int  # threads that read pictures

    @property
    def options(self) -> dict[str, object]:
        """The same as Ray's options."""
        if self.device is None:
            return {"num_cpus": self.cpus}
        device = {"num_gpus": 1} if self.device == "GPU" else {"resources": {self.device: 1}}
        return {"num_cpus": self.cpus, **device}


def share_of(provider: str, threads: int, workers: int | None, resources: Mapping[str, float]) -> Share:
    """What each worker takes of a cluster; the first three are flags.

    Raises InputError where there is no such device, or more workers than there is room for.
    """
    cpus = resources.get("CPU", 0) - SPARE_CPUS
    if cpus < 0:
        raise InputError(f"got a Ray of {resources.get('CPU', 0):g} CPUs, expected at least {SPARE_CPUS}; start more")
    device = DEVICES.get(provider)
    if device is not None:
        devices = int(resources.get(device, 0))
        if not devices:
            raise InputError(f"got --provider {provider}, and Ray sees no {device}; start it where there is one")
        share = min(max(cpus // devices, 1), MOST_READERS)
        most, taken = devices, Share(workers or devices, share, device, int(share))
    elif cpus < 1:  # a small cluster: fractions, so that reading and writing are not starved
        most, taken = 1, Share(1, 0.5, None, READERS)
    else:
        each = max(threads, 1)
        most = max(int(cpus // each), 1)
        taken = Share(workers or most, each, None, READERS)
    if taken.workers > most:
        raise InputError(
            f"got --workers {taken.workers}, expected at most {most} here; omit it, or lower --threads ({threads})"
        )
    return taken
