"""Export a trained model to a static ONNX file that carries its preprocessing, its NMS and its own description.

    python -m export.onnx --checkpoint runs/r50/.../best.pt --size 800x1216

Without flags it takes the newest runs/*/*/best.pt and its run's canvases, and writes beside it. Every file is compared
with PyTorch before it gets its name; the report lies beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # `python export/onnx.py`
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that the sentence about it can be said

from export import command
from gfl.say import say


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; 0, 1 when a check fails, 2 on a user's mistake.

    128 and its number when a signal stops it.
    """
    flags = command.parser("python -m export.onnx", __doc__, ".onnx", ("fp32", "fp16", "int8"))
    try:
        arguments = command.read_arguments(flags, argv)
        from export.request import read_request  # late: PyTorch and ONNX take seconds, and --help needs neither
        from export.summary import next_command, summary
        from export.write_onnx import write_onnx

        request = read_request(arguments)
        for note in request.notes:
            say(note)
        for size in request.files:
            say("\n".join(summary(write_onnx(request, size))))
        say(f"next: {next_command(request)}")
    except command.FAILURES as failure:
        return command.report_failure(failure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
