"""The ranks of a run: a process a device, on one host or several, started by torchrun.

A run without torchrun is alone, a world of one, and nothing here opens a connection for it. Words between ranks
(objects and waits) go over gloo whatever the device; tensors over the device's own backend: nccl, hccl, or gloo again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from gfl.engine.module import Loss
from gfl.errors import InputError, first_line
from gfl.settings import RunConfig

Value = TypeVar("Value")

MEETING = timedelta(seconds=60)  # for every rank to come; torchrun starts them together
PATIENCE = timedelta(minutes=10)  # for a collective: the first rank may count an evaluation or write meanwhile
LONGEST_RUN = timedelta(days=365)
TELLING = timedelta(seconds=10)  # for the rank that fails first to say why
NOTICING = 3.0  # seconds for the main thread to notice by itself that a rank is gone, and to end in good order


class Ranks:
    """This process among those of a run; alone unless `join` found others."""

    def __init__(self, rank: int = 0, world: int = 1, store: Store | None = None) -> None:
        self.rank, self.world = rank, world
        self._store = store  # what the ranks know of each other's failures; it outlives them under torchrun
        self._tensors: dist.ProcessGroup | None = None  # the group of tensors; None: that of words
        if store is not None:
            self._watch()

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes and speaks."""
        return self.rank == 0

    # ---- tensors: on the device, without a host read ----

    def local_device(self, device: torch.device) -> torch.device:
        """This rank's own device of a kind, and the group of tensors on it.

        Raises InputError where the host has fewer devices than ranks, and where the ranks have devices of two kinds.
        """
        if self.world == 1:
            return device
        self._check_same_kind(device.type)
        if device.type == "cpu":
            return device
        module, index = torch.get_device_module(device), int(os.environ.get("LOCAL_RANK", self.rank))
        devices = module.device_count()
        if index >= devices:
            raise InputError(
                f"got more than {devices} ranks on a host with {devices} {device.type} devices, expected one a device; "
                f"start torchrun with --nproc_per_node {devices}"
            )
        module.set_device(index)
        self._tensors = dist.new_group(backend=dist.get_default_backend_for_device(device), timeout=PATIENCE)
        return torch.device(device.type, index)

    def _check_same_kind(self, kind: str) -> None:
        """Raise InputError where DEVICE = 'auto' found another kind on another rank: they could not talk."""
        kinds: list[str | None] = [None] * self.world
        dist.all_gather_object(kinds, kind)
        for rank, found in enumerate(kinds):
            if found != kinds[0]:
                raise InputError(
                    f"rank {rank} runs on {found} and the first rank on {kinds[0]}, expected one kind of device on "
                    "every host; mend the host that lacks it, or give DEVICE"
                )

    @property
    def backend(self) -> str:
        """What tensors go over: 'gloo', 'nccl', 'hccl'."""
        return str(dist.get_backend(self._tensors))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks: the `reduce` of the loss."""
        if self.world == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._tensors)
        return total / self.world

    def maximum(self, values: Tensor) -> Tensor:
        """The largest over ranks: the `share` of the loss scale."""
        if self.world == 1:
            return values
        largest = values.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._tensors)
        return largest

    def synchronised(self, forward: Loss) -> Loss:
        """The module so that a backward leaves the mean of the ranks' gradients."""
        if self.world == 1:
            return forward
        # A 1x1 kernel's strides have two forms for one layout, of which DDP says that they differ.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        with warnings.catch_warnings():
            # Its successor is not in every version of torch that the project takes.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # Every parameter takes part in every loss, so DDP has no unused ones to look for, and static_graph would
            # only put the first step's exchange off until its backward is over.
            return DistributedDataParallel(
                cast(nn.Module, forward),
                process_group=self._tensors,
                # No gradient_as_bucket_view: Ascend's Apex moves the gradients into one tensor of its own, and unscales
                # that; views of DDP's buckets would take them out of it again.
                broadcast_buffers=False,  # they are frozen
            )

    # ---- words ----

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` gives on the first rank, on every rank; the others do not call it."""
        if self.world == 1:
            return make()
        held = [make() if self.first else None]
        dist.broadcast_object_list(held, src=0)
        return cast(Value, held[0])

    def at_first(self, value: Value) -> list[Value]:
        """Every rank's value in their order, on the first rank; nothing on the others."""
        if self.world == 1:
            return [value]
        found: list[Value | None] | None = [None] * self.world if self.first else None
        dist.gather_object(value, found, dst=0)
        return cast("list[Value]", found or [])

    def check_same(self, content: str, source: Path) -> None:
        """Raise InputError, on the first rank, where another found other content under the same path."""
        for rank, found in enumerate(self.at_first(content)):
            if found != content:
                raise InputError(
                    f"rank {rank} has {found} in {source} and the first rank {content}, expected the same on every "
                    "host; copy the first host's data to the others"
                )

    # ---- the end ----

    def leave(self) -> None:
        """Part when every rank is done."""
        if self.world > 1:
            dist.barrier()
            dist.send(torch.zeros(1), dst=(self.rank - 1) % self.world, group=self._watched)
            self._watcher.join()
            dist.destroy_process_group()

    def fail(self, text: str, code: int) -> int:
        """Say on stderr why the run ends and end this process; alone, return its exit code instead.

        Only the first rank that fails speaks: the others fail with it, or because of it. None takes leave of the
        others, which may never answer.
        """
        if self._store is None:
            print(text, file=sys.stderr)
            return code
        if self._speaks(self._store):
            print(text, file=sys.stderr, flush=True)
            with suppress(dist.DistError):
                self._store.set("told", "")
        sys.stdout.flush()
        for worker in multiprocessing.active_children():  # it holds copies of this process's connections
            worker.kill()
        os._exit(code)

    @staticmethod
    def _speaks(store: Store) -> bool:
        """Whether it is this rank's to say why the run ends; if not, another has said it when this returns."""
        try:
            if store.add("failed", 1) == 1:
                return True
        except dist.DistError:  # the store went with the host that keeps it
            return True
        with suppress(dist.DistError):
            store.wait(["told"], TELLING)  # before this rank ends: torchrun then ends the one that speaks
        return False

    def _watch(self) -> None:
        """End this process when the next rank is gone: on another host, the device's backend may wait for it for long.

        A thread waits for the word that the next rank sends when it leaves; gloo knows at once when it cannot come.
        """
        self._watched = dist.new_group(backend="gloo", timeout=LONGEST_RUN)
        following = (self.rank + 1) % self.world

        def wait() -> None:
            try:
                dist.recv(torch.zeros(1), src=following, group=self._watched)
            except RuntimeError:
                threading.main_thread().join(NOTICING)
                text = f"error: rank {following} of {self.world} is gone; go on with --resume --workdir of this run"
                self.fail(text, 1)

        self._watcher = threading.Thread(target=wait, name="watch", daemon=True)
        self._watcher.start()


def join() -> Ranks:
    """Meet the ranks that torchrun's environment speaks of; alone where it speaks of none, or of one.

    Raises InputError where not all of them come within a minute.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    try:
        store, rank, world = next(rendezvous("env://", timeout=MEETING))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(world)], MEETING)
    except (ValueError, dist.DistError) as error:
        raise InputError(
            f"the {os.environ['WORLD_SIZE']} ranks of this run did not meet within {MEETING.seconds} s "
            f"({first_line(error)}); start all of them with torchrun, and check --nnodes, --rdzv_endpoint and the "
            "network"
        ) from error
    store.set_timeout(PATIENCE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)
    return Ranks(rank, world, store)


def pictures_a_rank(cfg: RunConfig, world: int) -> int:
    """Pictures of a batch on one rank. Raises InputError where BATCH_SIZE does not divide."""
    parts = world * cfg.accumulate
    if cfg.batch_size % parts:
        raise InputError(
            f"got BATCH_SIZE = {cfg.batch_size} on {world} devices with ACCUMULATE = {cfg.accumulate}, expected a "
            f"multiple of {parts}: it counts the pictures of a step over all of them; set it to "
            f"{-(-cfg.batch_size // parts) * parts}"
        )
    return cfg.batch_size // parts


def gathering(forward: Loss, *, last: bool) -> AbstractContextManager[None]:
    """Around a forward and its backward: before the last of a step's batches, gradients add up on each rank alone."""
    if last or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    return cast("AbstractContextManager[None]", forward.no_sync())
