"""A video, or several, as a sequence of frames to come. NumPy and OpenCV only; frames are uint8 (H,W,3) RGB."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from gfl.data.picture_files import check_pixels, opencv_path, pixel_limit
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.words import printable
from infer.opened import Opened, Source, Unreadable


@dataclass(frozen=True)
class Frame:
    """A frame of a video, decoded already."""

    name: str
    image: Image
    time_s: float  # from the first frame's time stamp on
    video: Path

    def open(self) -> Opened:
        """The frame."""
        return Opened(self.image.shape[0] * self.image.shape[1], lambda: self.image)


@dataclass
class Video:
    """The frames of a video, numbered from 1; they can be gone through once."""

    path: Path
    name: str  # what its frames' names begin with
    total: int  # frames that its header states, 0 where it does not; how many it holds is known at its end
    fps: float  # frames a second, 0 where its header does not state them
    size: tuple[int, int]  # height, width in px
    notes: tuple[str, ...] = field(default=(), init=False)  # for the user, known at its end

    def __iter__(self) -> Iterator[Source]:
        read, time_s = 0, -math.inf
        with capture(self.path) as stream:
            while True:
                frame = read_frame(stream)
                if frame is None:
                    break
                read += 1
                time_s = self._time_after(time_s, stream.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
                yield Frame(f"{self.name}#{read:06d}", image, time_s, self.path)
        if read == 0:
            raise InputError(f"got no frame from {self.path}, expected a video that OpenCV reads; copy it again")
        if read < self.total:
            self.notes = (
                f"{printable(str(self.path))} ends after {read} of the {self.total} frames that it states; these are "
                "kept",
            )

    def _time_after(self, before_s: float, stated_s: float) -> float:
        """The time stamp of a frame; where the stated one does not go on from that before, it follows from the rate."""
        if before_s == -math.inf:
            return stated_s if math.isfinite(stated_s) and stated_s > 0 else 0.0
        if math.isfinite(stated_s) and stated_s > before_s:
            return stated_s
        return before_s + (1 / self.fps if self.fps else 0.0)


@dataclass(frozen=True)
class Videos:
    """The frames of several videos, one video after the other; they can be gone through once."""

    videos: tuple[Video | Unreadable, ...]  # in the order of their names
    left_out: tuple[str, ...] = ()  # for the user, known from the start

    @property
    def total(self) -> int:
        """Frames that all headers state; 0 where one does not."""
        totals = [video.total for video in self.videos if isinstance(video, Video)]
        return sum(totals) if all(totals) else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user, known at the end."""
        ended = (note for video in self.videos if isinstance(video, Video) for note in video.notes)
        return (*self.left_out, *ended)

    def __iter__(self) -> Iterator[Source]:
        """All frames; a video that gives none is one source, which cannot be read."""
        for video in self.videos:
            if isinstance(video, Unreadable):
                yield video
                continue
            try:
                yield from video
            except InputError as error:
                yield Unreadable(video.name, str(error))


def open_video(path: Path, name: str | None = None, most_pixels: int | None = None) -> Video:
    """A video; InputError where OpenCV does not read it, or its frames have more pixels (None: `pixel_limit`)."""
    with capture(path) as stream:
        stated = int(stream.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = stream.get(cv2.CAP_PROP_FPS)
        size = int(stream.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(stream.get(cv2.CAP_PROP_FRAME_WIDTH))
    check_pixels(size[0] * size[1], pixel_limit() if most_pixels is None else most_pixels, str(path))
    # Streams without an index state a negative number of frames, and some no rate.
    return Video(path, name or path.name, max(stated, 0), fps if math.isfinite(fps) and fps > 0 else 0.0, size)


def open_videos(
    videos: Sequence[tuple[str, Path]], left_out: Sequence[str] = (), most_pixels: int | None = None
) -> Videos:
    """Several videos by name; one that cannot be opened is named among the results."""

    def opened(name: str, path: Path) -> Video | Unreadable:
        try:
            return open_video(path, name, most_pixels)
        except InputError as error:
            return Unreadable(name, str(error))

    return Videos(tuple(opened(name, path) for name, path in sorted(videos)), tuple(left_out))


def read_frame(stream: cv2.VideoCapture) -> Image | None:
    """The next frame, (H,W,3) BGR; None after the last, and where OpenCV fails."""
    with contextlib.suppress(cv2.error):
        is_frame, frame = stream.read()
        return np.asarray(frame, dtype=np.uint8) if is_frame else None
    return None


def video_of(source: str) -> str:
    """The video of a frame: 'clip.mp4#000001' -> 'clip.mp4'."""
    return source.rpartition("#")[0]


@contextlib.contextmanager
def capture(path: Path) -> Iterator[cv2.VideoCapture]:
    """An open video. Raises InputError where OpenCV does not read it."""
    # Of OpenCV's other readers, one takes a name with a number in it for a series of pictures.
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
    with opencv_path(path) as name:
        stream = cv2.VideoCapture(name, cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY)
        try:
            if not stream.isOpened():
                raise InputError(f"{path} cannot be opened as a video, expected one that OpenCV reads; copy it again")
            yield stream
        finally:
            stream.release()
