"""An open model as a service: pictures are read by a few threads, run in shared batches by one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.requests import Request

from gfl.errors import InputError
from gfl.machine import usable_cores
from gfl.runtime.model import Model
from gfl.runtime.result import Result
from infer.pipeline import Failed, PictureReader, default_readers
from infer.serve.batcher import Batcher
from infer.serve.limits import Limits
from infer.serve.metrics import Metrics
from infer.serve.request_error import LEFT, RequestError
from infer.serve.uploads import Upload

T = TypeVar("T")


class Service:
    """A model that answers requests; its methods are called in the thread of the event loop."""

    def __init__(self, model: Model, name: str, limits: Limits) -> None:
        """name: of the model, in addresses."""
        self.model = model
        self.name = name
        self.limits = limits
        self.metrics = Metrics()
        self.draining = False  # new requests are refused
        self.busy = 0  # requests that are not answered yet
        self._inside = 0
        self._batcher = Batcher(model, limits.wait_s, self.metrics.ran)
        readers = default_readers(model.provider_report().provider, usable_cores())
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
        self._read, self._read_and_keep = PictureReader(model), PictureReader(model, keep_pixels=sys.maxsize)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._batcher.close()

    @contextmanager
    def room_for(self, pictures: int, counted: int = 0) -> Iterator[None]:
        """Count the pictures of a request as inside; raises RequestError where there is no room for them.

        counted: how many of them are counted already, before it was known how many there are.
        """
        if pictures > self.limits.queue:
            raise RequestError(
                413, "body", f"got {pictures} pictures, expected at most {self.limits.queue} at once; send fewer"
            )
        more = pictures - counted
        if self._inside + more > self.limits.queue:
            raise RequestError(
                503, "queue", f"the queue is full ({self._inside} of {self.limits.queue} pictures); try again later"
            )
        self._count(more)
        try:
            yield
        finally:
            self._count(-more)

    def _count(self, pictures: int) -> None:
        self._inside += pictures
        self.metrics.queue.set(self._inside)

    async def detect(self, uploads: Sequence[Upload], *, keep: bool = False) -> list[Result | Failed]:
        """What the model finds in each picture, in order; a result keeps its picture where `keep` says so."""
        try:
            return list(await asyncio.gather(*(self._detect(i, each, keep) for i, each in enumerate(uploads))))
        except InputError as error:  # the model's: too little memory, or outputs that are none
            raise RequestError(500, "model", f"the model failed: {error}") from error

    async def _detect(self, position: int, upload: Upload, keep: bool) -> Result | Failed:
        read = self._read_and_keep if keep else self._read
        picture = await self.in_pool(lambda: read(position, upload))
        if isinstance(picture, Failed):
            return picture
        computed = await asyncio.wrap_future(self._batcher.submit(picture))
        return computed.result(picture, self.model)

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Do what takes a while in one of the threads that read pictures."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def receive(self, reading: Coroutine[object, object, T], deadline: float) -> T:
        """What is read of a body until the deadline (the loop's time); raises RequestError where that takes longer."""
        try:
            return await asyncio.wait_for(reading, deadline - asyncio.get_running_loop().time())
        except asyncio.TimeoutError:
            raise RequestError(
                408, "time", f"the picture did not arrive within {self.limits.timeout_s:g} s; send it again"
            ) from None

    async def answer(self, request: Request, working: Coroutine[object, object, T], deadline: float) -> T:
        """What comes of the work until the deadline; it is dropped where the client leaves.

        Raises RequestError for both.
        """
        work = asyncio.ensure_future(working)
        leaving = asyncio.ensure_future(left(request))
        both = {work, leaving}
        try:
            time_left = max(deadline - asyncio.get_running_loop().time(), 0)
            await asyncio.wait(both, timeout=time_left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if leaving.done():
                raise RequestError(LEFT, "left", "the client left before its answer")
            raise RequestError(504, "time", f"no answer within {self.limits.timeout_s:g} s; try again later")
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)


async def left(request: Request) -> None:
    """Return when the client is gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
