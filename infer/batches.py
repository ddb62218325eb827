"""Batches of static shape on their way to the model: claimed in the order of the input, filled in any order.

Shapes: B pictures a batch, H, W its canvas. NumPy and OpenCV only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.transforms import Image
from gfl.runtime.result import PictureInfo
from gfl.shapes import Canvas

AHEAD = 2  # closed batches at a time: one that runs and one that waits, so that the model never does
PATIENCE = 64  # batches' worth of later pictures after which a batch of a rare canvas goes out unfilled
OWN_OPEN = 4  # open batches where every picture has a canvas of its own


class StoppedError(Exception):
    """What a thread meets when another one has ended the work."""


class Member(NamedTuple):
    """A picture of a batch."""

    place: int  # among the sources
    placed: PictureInfo


@dataclass(eq=False)  # two batches are the same only if they are one
class Batch:
    """Buffers and the pictures in them; slots from len(members) on are blank."""

    canvas: Canvas
    images: NDArray[np.uint8]  # (B,3,H,W) RGB
    image_sizes: NDArray[np.int32]  # (B,2) height, width inside the canvas; (0,0) for a blank
    members: list[Member] = field(default_factory=list)
    missing: int = 0  # claimed slots whose picture is not there yet
    closed: bool = False  # no slot may be claimed any more

    def fill(self, slot: int, image: Image) -> None:
        """Write a resized picture (h,w,3) into a slot, zeros beside and below it."""
        height, width = image.shape[:2]
        planes = self.images[slot]
        planes[:, height:] = 0
        planes[:, :height, width:] = 0
        # Straight from interleaved to planes, in one pass and without the interpreter's lock.
        cv2.mixChannels([image], [plane[:height, :width] for plane in planes], [0, 0, 1, 1, 2, 2])
        self.image_sizes[slot] = height, width

    def blank(self) -> None:
        """Empty the slots that nobody claimed."""
        self.images[len(self.members) :] = 0
        self.image_sizes[len(self.members) :] = 0


class Batches:
    """Where the threads meet: readers claim slots in turn and fill them, the model takes what is full.

    A reader waits while AHEAD batches are closed: memory holds these, an open one a canvas, and a picture a reader.
    """

    def __init__(self, size: int, most_open: int = OWN_OPEN) -> None:
        """size: pictures a batch. most_open: unfilled batches at a time; one more sends the oldest out."""
        self._size = size
        self._most_open = most_open
        self._changed = threading.Condition()
        self._turn = 0  # the picture whose slot is next
        self._open: dict[Canvas, Batch] = {}  # the oldest first
        self._closed = 0  # batches that are closed and not given back
        self._ready: deque[Batch] = deque()
        self._spare: deque[Batch] = deque(maxlen=most_open + AHEAD)  # their buffers serve again
        self._ended = False
        self.stopped = False
        self.error: BaseException | None = None  # what stopped the work

    # ---- readers ----

    def claim(self, index: int, canvas: Canvas, placed: PictureInfo) -> tuple[Batch, int]:
        """Wait for the picture's turn and for room; its batch and slot. Raises StoppedError."""
        with self._changed:
            self._wait_for(lambda: self._turn == index and self._closed < AHEAD)
            self._send_late(index)
            batch = self._open.get(canvas) or self._begin(canvas)
            batch.members.append(Member(index, placed))
            batch.missing += 1
            slot = len(batch.members) - 1
            if len(batch.members) == self._size:
                self._close(batch)
            self._next_turn()
        return batch, slot

    def filled(self, batch: Batch) -> None:
        """A claimed slot has its picture."""
        with self._changed:
            batch.missing -= 1
            self._offer(batch)

    def pass_over(self, index: int) -> None:
        """A picture takes no slot. Raises StoppedError."""
        with self._changed:
            self._wait_for(lambda: self._turn == index)
            self._next_turn()

    def end(self) -> None:
        """No picture comes any more: what is open goes out with blanks."""
        with self._changed:
            for batch in list(self._open.values()):
                self._close(batch)
            self._ended = True
            self._changed.notify_all()

    # ---- the model ----

    def take(self) -> Batch | None:
        """Wait for the next batch whose pictures are all there; None after the last. Raises StoppedError."""
        with self._changed:
            self._wait_for(lambda: bool(self._ready) or (self._ended and self._closed == 0))
            return self._ready.popleft() if self._ready else None

    def give_back(self, batch: Batch) -> None:
        """The model has run; the buffers may be used again."""
        with self._changed:
            self._closed -= 1
            self._spare.append(batch)
            self._changed.notify_all()

    # ---- everyone ----

    def stop(self, error: BaseException | None = None) -> None:
        """End the work; the first error is kept. Whoever waits, or comes to wait, gets StoppedError."""
        with self._changed:
            self.stopped = True
            self.error = self.error or error
            self._changed.notify_all()

    # ---- with the lock held ----

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self.stopped or condition())
        if self.stopped:
            raise StoppedError

    def _next_turn(self) -> None:
        self._turn += 1
        self._changed.notify_all()

    def _begin(self, canvas: Canvas) -> Batch:
        """An empty batch; the oldest open one goes out if there would be too many."""
        if len(self._open) == self._most_open:
            self._close(next(iter(self._open.values())))
        spare = next((batch for batch in self._spare if batch.canvas == canvas), None)
        if spare is None:
            images = np.zeros((self._size, 3, *canvas), np.uint8)
            batch = Batch(canvas, images, np.zeros((self._size, 2), np.int32))
        else:
            self._spare.remove(spare)
            batch = Batch(canvas, spare.images, spare.image_sizes)
        self._open[canvas] = batch
        return batch

    def _send_late(self, index: int) -> None:
        """Close what has waited for too long: results go out in order, and those behind it wait too."""
        late = [batch for batch in self._open.values() if index - batch.members[0].place >= PATIENCE * self._size]
        for batch in late:
            self._close(batch)

    def _close(self, batch: Batch) -> None:
        del self._open[batch.canvas]
        batch.closed = True
        self._closed += 1
        self._offer(batch)

    def _offer(self, batch: Batch) -> None:
        if batch.closed and batch.missing == 0:
            self._ready.append(batch)
            self._changed.notify_all()
