"""The ranks of a run: a process a device, on one host or several, started by torchrun.

A run without torchrun is a world of one rank, and nothing here opens a connection for it. Python objects and barriers
go over gloo whatever the device; tensors over the device's own backend: nccl, hccl, or gloo again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import uuid
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from gfl.engine.module import Loss
from gfl.errors import InputError, first_line
from gfl.say import flush_outputs, say
from gfl.settings import RunConfig

Value = TypeVar("Value")

JOIN_TIMEOUT = timedelta(seconds=60)  # until every rank has connected; torchrun starts them together
JOIN_PAUSE_S = 0.1
COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # the others wait while the first rank computes AP or writes a checkpoint
LONGEST_RUN = timedelta(days=365)
FIRST_ERROR_TIMEOUT = timedelta(seconds=10)  # for the rank that fails first to print why
SHUTDOWN_GRACE_S = 3.0  # for the main thread to notice by itself that a rank is gone, and to end in good order


class Ranks:
    """This process among those of a run; alone unless `join` found others."""

    def __init__(self, rank: int = 0, world: int = 1, store: Store | None = None) -> None:
        self.rank, self.world = rank, world
        self._store = store  # holds which rank failed first; under torchrun it outlives the ranks
        self._tensors: dist.ProcessGroup | None = None  # the group that tensors go over; None: gloo, as for objects
        if store is not None:
            self._watch()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes files and prints."""
        return self.rank == 0

    # ---- tensors: on the device, without a host read ----

    def local_device(self, device: torch.device) -> torch.device:
        """This rank's own device of the kind of `device`; opens the process group for tensors on it.

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
        self._tensors = dist.new_group(backend=dist.get_default_backend_for_device(device), timeout=COLLECTIVE_TIMEOUT)
        return torch.device(device.type, index)

    def _check_same_kind(self, kind: str) -> None:
        """Raise InputError where DEVICE = 'auto' chose another kind on another rank: no backend joins two kinds."""
        kinds: list[str | None] = [None] * self.world
        dist.all_gather_object(kinds, kind)
        for rank, other in enumerate(kinds):
            if other != kinds[0]:
                raise InputError(
                    f"rank {rank} runs on {other} and the first rank on {kinds[0]}, expected one kind of device on "
                    "every host; mend the host that lacks it, or give DEVICE"
                )

    @property
    def backend(self) -> str:
        """The backend that tensors go over: 'gloo', 'nccl' or 'hccl'."""
        return str(dist.get_backend(self._tensors))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks; the argument `reduce` of the loss, for its normalisers."""
        if self.world == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self._tensors)
        return total / self.world

    def maximum(self, values: Tensor) -> Tensor:
        """The largest over ranks; the argument `reduce_overflow` of the loss scale."""
        if self.world == 1:
            return values
        largest = values.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._tensors)
        return largest

    def synchronised(self, forward: Loss) -> Loss:
        """The module wrapped so that a backward pass leaves the mean of the ranks' gradients in `.grad`."""
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

    # ---- Python objects ----

    def broadcast_from_first(self, value: Value | None) -> Value:
        """The first rank's value on every rank; the others give None, and need not know it."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0)
        return cast(Value, values[0])

    def gather_at_first(self, value: Value) -> list[Value]:
        """Every rank's value, ordered by rank, on the first rank; an empty list on the others."""
        if self.world == 1:
            return [value]
        values: list[Value | None] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values, dst=0)
        return cast("list[Value]", values or [])

    def check_same(self, content: str, source: Path) -> None:
        """Raise InputError, on the first rank, where another rank read something else from the same path.

        content: what this rank read from `source`, in words for the message.
        """
        for rank, other in enumerate(self.gather_at_first(content)):
            if other != content:
                raise InputError(
                    f"rank {rank} has {other} in {source} and the first rank {content}, expected the same on every "
                    "host; copy the first host's data to the others"
                )

    # ---- the end of the run ----

    def leave(self) -> None:
        """Wait until every rank is done, and close the connections."""
        if self.world > 1:
            dist.barrier()
            dist.send(torch.zeros(1), dst=(self.rank - 1) % self.world, group=self._watched)
            self._watcher.join()
            dist.destroy_process_group()

    def fail(self, text: str, code: int) -> int:
        """Print on stderr why the run ends, and end this process; in a world of one, return its exit code instead.

        Only the rank that fails first prints: the others fail for the same reason, or because it is gone. The
        process ends without closing its connections, since the others may never answer.
        """
        if self._store is None:
            say(text, error=True)
            return code
        if self._is_first_to_fail(self._store):
            say(text, error=True)
            with suppress(dist.DistError):
                self._store.set("reason_printed", "")
        flush_outputs()
        for worker in multiprocessing.active_children():  # a loader's worker holds copies of this process's connections
            worker.kill()
        os._exit(code)

    @staticmethod
    def _is_first_to_fail(store: Store) -> bool:
        """Whether no other rank has failed yet; if one has, this returns when that one has printed why."""
        try:
            if store.add("failed", 1) == 1:
                return True
        except dist.DistError:  # the store went with the host that keeps it
            return True
        with suppress(dist.DistError):
            store.wait(["reason_printed"], FIRST_ERROR_TIMEOUT)  # when one rank ends, torchrun ends the others
        return False

    def _watch(self) -> None:
        """End this process when the next rank is gone, for which nccl or hccl might wait long after its host died.

        A thread waits for the message that the next rank sends in `leave`; gloo fails at once where that rank is gone.
        """
        self._watched = dist.new_group(backend="gloo", timeout=LONGEST_RUN)
        following = (self.rank + 1) % self.world

        def wait() -> None:
            try:
                dist.recv(torch.zeros(1), src=following, group=self._watched)
            except RuntimeError:
                threading.main_thread().join(SHUTDOWN_GRACE_S)
                text = f"error: rank {following} of {self.world} is gone; go on with --resume --workdir of this run"
                self.fail(text, 1)

        self._watcher = threading.Thread(target=wait, name="watch", daemon=True)
        self._watcher.start()


def join() -> Ranks:
    """Connect the ranks that torchrun's environment variables name; without them, or with one rank, a world of one.

    Raises InputError where not all of them connect within JOIN_TIMEOUT.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    try:
        shared, rank, world = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
        store = _own_part(shared, rank, world)
    except (ValueError, TimeoutError, dist.DistError) as error:
        raise InputError(
            f"the {os.environ['WORLD_SIZE']} ranks of this run did not meet within {JOIN_TIMEOUT.seconds} s "
            f"({first_line(error)}); start all of them with torchrun, and check --nnodes, --rdzv_endpoint and the "
            "network"
        ) from error
    store.set_timeout(COLLECTIVE_TIMEOUT)
    if dist.is_initialized():  # by the launcher, as Ray does; not before the store, which may be the same
        dist.destroy_process_group()
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
    return Ranks(rank, world, store)


def _own_part(store: Store, rank: int, world: int) -> Store:
    """The part of a store that these processes share with none before them; every rank must call it.

    torchrun gives ranks that it restarts the store of those before them, whose addresses are still in it. So each
    process has a name of its own, and the first rank lists the names until every process has seen itself in one list.
    Raises TimeoutError, and the store's errors, where that takes longer than JOIN_TIMEOUT.
    """
    end = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    own = uuid.uuid4().hex
    store.set(f"name/{rank}", own)
    while time.monotonic() < end:
        if rank == 0:
            store.set("names", " ".join(store.get(f"name/{other}").decode() for other in range(world)))
        names = store.get("names").decode()
        part = PrefixStore(names, store)
        if own in names:
            part.set(f"here/{rank}", "")
            if part.check([f"here/{other}" for other in range(world)]):
                return part
        time.sleep(JOIN_PAUSE_S)
    raise TimeoutError("ranks are missing")


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


def without_gradient_sync(forward: Loss) -> AbstractContextManager[None]:
    """Around a forward and its backward: gradients add up on each rank alone, to be exchanged by a later backward."""
    if isinstance(forward, DistributedDataParallel):
        return cast("AbstractContextManager[None]", forward.no_sync())
    return nullcontext()
