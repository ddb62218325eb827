"""Export a trained model as a torch.export program: a static .pt2 that PyTorch runs without the model code.

    python -m export.torch --checkpoint runs/r50/.../best.pt --size 800x1216

The flags are those of export.onnx. Without flags it takes the newest runs/*/*/best.pt and its run's canvases, and
writes beside it. Every file is read back and compared with the checkpoint before it gets its name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # `python export/torch.py`
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that the sentence about it can be said

from export import command
from gfl.say import say


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; 0, 1 when a check fails, 2 on a user's mistake.

    128 and its number when a signal stops it.
    """
    # Of PyTorch's own runtimes only float32 gives the same numbers on every device; smaller types are for ONNX.
    flags = command.parser("python -m export.torch", __doc__, ".pt2", ("fp32",))
    try:
        arguments = command.read_arguments(flags, argv)
        from export.request import read_request  # late: PyTorch takes seconds, and --help does not need it
        from export.summary import next_command, summary
        from export.write_pt2 import write_program

        request = read_request(arguments)
        for note in request.notes:
            say(note)
        for size in request.files:
            say("\n".join(summary(write_program(request, size))))
        say(f"next: {next_command(request)}")
    except command.FAILURES as failure:
        return command.report_failure(failure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
