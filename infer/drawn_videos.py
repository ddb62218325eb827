"""Videos with their detections drawn in: every frame in its order, at the video's own rate and size, as .mp4."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import cv2

from gfl.data.picture_files import is_utf8, opencv_path
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.files import write_errors
from gfl.runtime.result import Result
from gfl.words import counted, printable
from infer.drawn_pictures import distinct_stems
from infer.videos import video_of

CODEC = "mp4v"  # MPEG-4, which every build of OpenCV with FFmpeg writes
USUAL_FPS = 25.0  # of a video that does not say
UNFINISHED = ".gfl-"  # begins the name of a video that is being written


class DrawnVideos:
    """A folder of annotated videos. One is being written at a time, and gets its name when it is whole."""

    def __init__(self, folder: Path, rates: Mapping[str, float], score: float | None, *, edges: bool = False) -> None:
        """Begin.

        rates: frames a second of each video, by its name in the results; 0 where it does not say.
        score, edges: as of `Result.draw`.
        """
        self._paths = video_paths(folder, list(rates))
        self._rates = rates
        self._score, self._edges = score, edges
        self._resized: Counter[str] = Counter()  # frames, by video
        self._odd: dict[str, tuple[int, int]] = {}  # width, height of videos that lose a row or a column
        self._video = ""
        self._frames = 0
        self._size = (0, 0)  # width, height
        self._writer: cv2.VideoWriter | None = None
        for path in folder.glob(f"{UNFINISHED}*"):  # of a run that was killed
            path.unlink(missing_ok=True)

    def __enter__(self) -> DrawnVideos:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._end()
        elif self._writer is not None:
            self._writer.release()
            with contextlib.suppress(OSError):
                self._unfinished.unlink()

    def draw(self, position: int, result: Result) -> Image | None:
        """The frame with its detections."""
        return result.draw(self._score, edges=self._edges)

    def append(self, source: str, image: Image) -> None:
        """Write the next frame; InputError where the video cannot be written. source: 'video#frame'."""
        video = video_of(source)
        if video != self._video:
            self._end()
            self._begin(video, image)
        if self._writer is None:
            return
        frame = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if (image.shape[1], image.shape[0]) != self._size:  # a stream may change its size; a file has one
            self._resized[video] += 1
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(frame)
        self._frames += 1

    @property
    def notes(self) -> Iterator[str]:
        """For the user: what differs from the videos that were read."""
        for video, frames in self._resized.items():
            yield f"{printable(video)}: {counted(frames, 'frame')} of another size than the first, drawn in its size"
        for video, (width, height) in self._odd.items():
            even = f"{width // 2 * 2}x{height // 2 * 2}"
            yield f"{printable(video)} of {width}x{height} px is drawn as {even}: MPEG-4 has even sides"
        for video in (video for video, rate in self._rates.items() if not rate):
            yield f"{printable(video)} states no rate of frames; it is drawn at {USUAL_FPS:g} a second"

    @property
    def _path(self) -> Path:
        return self._paths[self._video]

    @property
    def _unfinished(self) -> Path:
        return self._path.with_name(f"{UNFINISHED}unfinished.mp4")

    def _begin(self, video: str, image: Image) -> None:
        self._video, self._frames, self._size = video, 0, (image.shape[1], image.shape[0])
        rate = self._rates[video] or USUAL_FPS
        if self._size[0] % 2 or self._size[1] % 2:
            self._odd[video] = self._size
        with writable_name(self._unfinished) as name:
            self._writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*CODEC), rate, self._size)
        if not self._writer.isOpened():
            self._writer = None
            width, height = self._size
            raise InputError(
                f"cannot write {self._path}, a video of {width}x{height} px: expected 2 to 8191 px a side, an OpenCV "
                "that writes .mp4, and a folder with space; omit --draw, or install opencv-python-headless"
            )

    def _end(self) -> None:
        """Give the video that is being written its name; InputError where the disk has not all of its frames."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        held = frames_in(self._unfinished)
        if held != self._frames:  # OpenCV does not say that the disk is full
            with contextlib.suppress(OSError):
                self._unfinished.unlink()
            raise InputError(
                f"cannot write {self._path}: it holds {held} of {self._frames} frames; free some space or write to "
                "another folder"
            )
        with write_errors(self._path):
            os.replace(self._unfinished, self._path)


def video_paths(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Where each video goes, by its name in the results."""
    return {name: folder / f"{stem}.mp4" for name, stem in zip(names, distinct_stems(names), strict=True)}


@contextlib.contextmanager
def writable_name(path: Path) -> Iterator[str]:
    """The name under which OpenCV makes a file whose own name is UTF-8; that of its folder may end the process."""
    if is_utf8(str(path)):
        yield str(path)
        return
    with write_errors(path):
        folder = os.open(path.parent, os.O_RDONLY)
    try:
        if not os.path.isdir(f"/dev/fd/{folder}"):
            raise InputError(f"{path.parent} has a name that is no UTF-8, expected one that is; give another --output")
        yield f"/dev/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def frames_in(path: Path) -> int:
    """How many frames a video states; 0 where it cannot be opened."""
    with contextlib.suppress(InputError), opencv_path(path) as name:
        stream = cv2.VideoCapture(name)
        try:
            return int(stream.get(cv2.CAP_PROP_FRAME_COUNT)) if stream.isOpened() else 0
        finally:
            stream.release()
    return 0
