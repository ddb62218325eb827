"""Objects followed through a video: detections get the number of their track, by ByteTrack of the package trackers.

Zhang et al., arXiv 2110.06864: what is found with confidence is matched to the tracks first, what is left of the tracks
to the rest then. Each class is followed by itself, since a detector may give one object two classes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.packages import import_package
from gfl.runtime.result import Result
from infer.drawn_videos import USUAL_FPS
from infer.pipeline import Failed, InOrder, OnResult
from infer.videos import video_of


class Detections(Protocol):
    """The part of supervision.Detections that is used here."""

    tracker_id: NDArray[np.integer]  # -1: of no track, or of one that is not confirmed yet
    data: dict[str, NDArray[np.integer]]


class ByteTrack(Protocol):
    """A tracker of the package trackers."""

    def update(self, detections: object) -> Detections:
        """The detections of the next frame with their tracks, in another order."""


class Tracks:
    """The tracks of one video after the other; frames come in their order."""

    def __init__(self, rates: Mapping[str, float], thresholds: Sequence[float]) -> None:
        """rates: frames a second of each video by name, 0 where it does not say. thresholds: of each class, from which
        score on a detection begins a track. Raises InputError where the package is missing."""
        self._trackers, self._supervision = import_trackers()
        self._rates, self._thresholds = rates, thresholds
        self._video = ""
        self._of_class: dict[int, ByteTrack] = {}
        self._numbers: dict[tuple[int, int], int] = {}  # class and its tracker's own number -> number in the video

    def follow(self, result: Result) -> Result:
        """The result of the next frame with its tracks, numbered from 1 in each video."""
        video = video_of(result.source)
        if video != self._video:
            self._video = video
            self._of_class.clear()
            self._numbers.clear()
        ids = np.full(len(result), -1, np.int64)
        for label in sorted(self._of_class.keys() | set(result.labels.tolist())):  # those without a detection age
            places = np.flatnonzero(result.labels == label)
            found = self._supervision.Detections(
                xyxy=result.boxes_xyxy[places].astype(np.float64).reshape(-1, 4),
                confidence=result.scores[places].astype(np.float64),
                data={"place": places},
            )
            followed = self._tracker(label).update(found)
            for place, own in zip(followed.data.get("place", []), followed.tracker_id.tolist(), strict=True):
                if own >= 0:
                    ids[place] = self._numbers.setdefault((label, own), len(self._numbers) + 1)
        return replace(result, track_ids=ids)

    def _tracker(self, label: int) -> ByteTrack:
        if label not in self._of_class:
            score = self._thresholds[label]
            self._of_class[label] = self._trackers.ByteTrackTracker(
                frame_rate=self._rates[self._video] or USUAL_FPS,
                track_activation_threshold=score,
                high_conf_det_threshold=score,
            )
        return self._of_class[label]


class TrackedFrames:
    """Takes results in any order, from several threads, and hands them on one by one in theirs, with tracks."""

    def __init__(self, tracks: Tracks, on_result: OnResult) -> None:
        self._tracks, self._on_result = tracks, on_result
        self._in_order: InOrder[Result | Failed] = InOrder()
        self._next = 0
        self._lock = threading.Lock()

    def take(self, position: int, outcome: Result | Failed) -> None:
        """The outcome of the frame at a position, from 0."""
        with self._lock:
            for each in self._in_order.add(position, outcome):
                self._on_result(self._next, self._tracks.follow(each) if isinstance(each, Result) else each)
                self._next += 1


def import_trackers() -> tuple[ModuleType, ModuleType]:
    """The packages trackers and supervision; InputError where one is missing."""
    mend = "install it (pip install trackers), or omit --track"
    trackers = import_package("trackers", "--track needs the package trackers, which", mend)
    return trackers, import_package("supervision", "--track needs the package supervision, which", mend)
