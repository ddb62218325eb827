"""What a run says when it has ended: what its best.pt holds, and the commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from gfl.data.coco import CocoData


def end_lines(folder: Path, best: str, train: CocoData, val: CocoData | None) -> Iterator[str]:
    """best: what best.pt holds, in words."""
    yield f"\nthe run is in {folder}; best.pt holds {best}"
    if (folder / "report.html").is_file():
        yield f"  look at   {folder / 'report.html'}"
    checkpoint = folder / "best.pt"
    if val is not None:
        where = f"--annotations {_quoted(val.annotations)} --images {_quoted(val.images)}"
        yield f"  evaluate  python -m gfl.evaluate --checkpoint {_quoted(checkpoint)} {where}"
    yield f"  export    python -m export.onnx --checkpoint {_quoted(checkpoint)}"
    pictures, found = (val or train).images, folder / "found"
    flags = f"--input {_quoted(pictures)} --output {_quoted(found)} --draw"
    yield f"  detect    python -m infer.run --model {_quoted(checkpoint)} {flags}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
