"""What OpenCV reads from the environment when it is imported, set before that by the programs that decode."""

from __future__ import annotations

import os

from gfl.shapes import MOST_PIXELS, PIXELS_VARIABLE


def settle_opencv(most_pixels: int | None) -> None:
    """Let OpenCV and FFmpeg be silent and refuse larger pictures; what the environment says already stays.

    most_pixels: None: GFL_MOST_PIXELS of the environment, or the project's limit. OpenCV's own limit is for formats
    whose headers it alone reads.
    """
    # What they say of a damaged file, the sentence that is printed says better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    limit = str(most_pixels or os.environ.get(PIXELS_VARIABLE) or MOST_PIXELS)
    if limit.isdecimal():
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", limit)
