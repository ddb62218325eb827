"""Ray Data over the list of a job: workers with a model each, parts as they are done, a checkpoint beside them.

A task is a slice of the list; of a task comes a part. What is on its way through Ray is names and rows: workers read
the pictures themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import signal
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig

from gfl.errors import InputError
from gfl.machine import usable_cores
from gfl.signals import SIGNALS
from gfl.words import counted
from infer.bulk.detector import Detector
from infer.bulk.filesystems import Located
from infer.bulk.folder import CHECKPOINT, PARTS, read_list
from infer.bulk.share import SPARE_CPUS, Share, share_of
from infer.head import Head
from infer.model_flags import DETECTOR_FLAGS
from infer.parquet import schema_of
from infer.progress import Progress

ADDRESS = "RAY_ADDRESS"  # of the environment, Ray's own: a cluster that runs
SMALL_CPUS = 0.5  # of a task that reads a slice of the list or writes a part
OBJECT_STORE_BYTES = 500_000_000  # of a Ray of our own: names and rows are small
PART_PICTURES, LEAST_PARTS = 1_000, 64  # a killed job loses a part a worker; small jobs have smaller parts
MOST_TRIES = 4  # of a task whose worker dies; then its pictures have failed
POLL_S = 0.5


class JobError(Exception):
    """A job that cannot give what was asked of it, in one sentence: exit status 1."""


class Pictures(Datasource):
    """The list of a job, in slices of so many pictures."""

    def __init__(self, folder: str, pictures: int, part: int) -> None:
        """folder: its URI."""
        self._folder, self._pictures, self._part = folder, pictures, part

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One a slice, whatever Ray would like."""
        tasks = []
        for start in range(0, self._pictures, self._part):
            stop = min(start + self._part, self._pictures)
            about = BlockMetadata(num_rows=stop - start, size_bytes=None, input_files=None, exec_stats=None)
            tasks.append(ReadTask(partial(read_block, self._folder, start, stop), about))
        return tasks


def read_block(folder: str, start: int, stop: int) -> list[pa.Table]:
    """A slice of the list as Ray wants it."""
    return [read_list(folder, start, stop)]


class TaskCounts:
    """Counts what the workers have done, a task once however often it was tried; an actor of Ray's."""

    def __init__(self) -> None:
        self._tries: Counter[int] = Counter()  # by the first picture of a task
        self._of_task: dict[int, tuple[int, int]] = {}
        self._refusal = ""

    def refuse(self, reason: str) -> None:
        """A worker cannot open the model."""
        self._refusal = reason

    def refusal(self) -> str:
        """Why a worker could not; empty where all could."""
        return self._refusal

    def begin(self, first_id: int) -> int:
        """A task is begun; how often it was."""
        self._tries[first_id] += 1
        return self._tries[first_id]

    def add(self, first_id: int, pictures: int, failed: int) -> None:
        """A task is done."""
        self._of_task[first_id] = pictures, failed

    def read(self) -> tuple[int, int]:
        """Pictures, and how many of them failed."""
        return sum(done for done, _ in self._of_task.values()), sum(failed for _, failed in self._of_task.values())


class Worker:
    """A `Detector` that tells what it has done."""

    def __init__(self, model: str, options: Mapping[str, Any], readers: int, counts: ray.actor.ActorHandle) -> None:
        self._counts = counts
        try:
            self._detector = Detector(model, readers=readers, **options)
        except InputError as error:
            ray.get(counts.refuse.remote(str(error)))
            raise

    def __call__(self, pictures: pa.Table) -> pa.Table:
        first_id = pictures["id"][0].as_py()
        if ray.get(self._counts.begin.remote(first_id)) > MOST_TRIES:
            reason = (
                f"the process that answered this picture and those beside it died {MOST_TRIES} times; try them apart"
            )
            place = pictures.column_names.index("failure")
            pictures = pictures.set_column(place, "failure", pa.array([reason] * pictures.num_rows))
        rows = self._detector(pictures)
        self._counts.add.remote(first_id, rows.num_rows, rows.num_rows - rows["failure"].null_count)
        return rows


def run_pipeline(arguments: argparse.Namespace, folder: Located, head: Head, done: int, failed: int) -> Share:
    """Answer all pictures of a job that are not answered yet. done: those that are; failed: of them.

    Raises JobError where too many fail, and InputError for what a worker finds wrong with the model.
    """
    pictures = head["pictures"]
    most = math.floor(arguments.max_failures * pictures)
    check_failures(failed, most, pictures)
    with ray_started(arguments) as share, Progress(pictures - done) as progress:
        counts = ray.remote(TaskCounts).options(num_cpus=0).remote()
        working = Working(lambda: answer(arguments, folder, head, share, counts))
        answered = 0
        while not has_ended(working, counts):
            now, failed_now = ray.get(counts.read.remote())
            if now > answered:
                progress.advance(now - answered)
                answered = now
            check_failures(failed + failed_now, most, pictures)
    return share


def has_ended(working: Working, counts: ray.actor.ActorHandle) -> bool:
    """Whether the work has, after waiting a moment; raises what ended it, as InputError what a worker refused."""
    try:
        return working.has_ended(POLL_S)
    except Exception:
        reason = ray.get(counts.refusal.remote())
        if reason:  # of Ray's exception, only the text says it
            raise InputError(reason) from None
        raise


def check_failures(failed: int, most: int, pictures: int) -> None:
    """Raise JobError where there are."""
    if failed > most:
        raise JobError(
            f"{counted(failed, 'picture')} of {pictures:,} failed, expected at most {most:,} (--max_failures); see the "
            "column failure of the parts, and run the job again with a larger share to go on"
        )


class Working:
    """Work in a thread of its own, so that this one can look after it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._error = error

    def has_ended(self, wait_s: float) -> bool:
        """Whether it has, after waiting a while; raises what it raised."""
        self._thread.join(wait_s)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()


def answer(
    arguments: argparse.Namespace, folder: Located, head: Head, share: Share, counts: ray.actor.ActorHandle
) -> None:
    """The pipeline itself."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_min_block_size = 1  # a slice is a block: else small ones would be joined until the very end
    context.checkpoint_config = CheckpointConfig(
        "id",
        folder.below(CHECKPOINT).path,
        delete_checkpoint_on_success=False,  # not before all was counted
        override_filesystem=folder.filesystem,
    )
    part = min(PART_PICTURES, -(-head["pictures"] // LEAST_PARTS))
    options = {name: getattr(arguments, name) for name in DETECTOR_FLAGS}
    source = Pictures(folder.uri, head["pictures"], part)
    slices = -(-head["pictures"] // part)  # said, or Ray cuts each into several blocks
    dataset = ray.data.read_datasource(source, num_cpus=SMALL_CPUS, override_num_blocks=slices)
    rows = dataset.map_batches(
        Worker,
        fn_constructor_args=(str(arguments.model), options, share.readers, counts),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=share.workers),
        **share.options,
    )
    rows.write_parquet(
        folder.below(PARTS).path,
        filesystem=folder.filesystem,
        ray_remote_args={"num_cpus": SMALL_CPUS},
        schema=schema_of(head),
        compression="zstd",
    )


@contextlib.contextmanager
def ray_started(arguments: argparse.Namespace) -> Iterator[Share]:
    """Ray, of this machine or the cluster that RAY_ADDRESS names, and what each worker takes of it."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="ray")
        quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if os.environ.get(ADDRESS):
            start(**quiet)
        else:
            # The names of its sockets begin with this folder, and may have 107 characters.
            short = "/tmp" if os.access("/tmp", os.W_OK) else None
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="gfl-", dir=short, ignore_cleanup_errors=True)
            )
            start(
                address="local",
                # It only counts. One core is left unless --workers asks for it; what Ray itself does is little.
                num_cpus=max(usable_cores() - 1, max(arguments.threads, 1) * (arguments.workers or 1)) + SPARE_CPUS,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=place,
                **quiet,
            )
        stack.callback(ray.shutdown)
        yield share_of(arguments.provider, arguments.threads, arguments.workers, ray.cluster_resources())


def start(**options: object) -> None:
    """ray.init, without what its C++ part says of its own settings, and without its own way to end at signals."""
    kept, handlers = os.dup(2), {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        ray.init(**options)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        for number, handler in handlers.items():
            signal.signal(number, handler)
