"""The command line of the server; importing it costs nothing, so that --help answers at once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ABOUT = """Serve a trained model over HTTP: a page to drop pictures on, POST /detect, the Open Inference Protocol.

    python -m infer.serve --model best.onnx
    curl -F picture=@dog.jpg http://127.0.0.1:8000/detect

Only this machine is answered unless --host says otherwise; then --token TEXT is asked of every request, or --open says
that anyone may come. Ctrl-C or SIGTERM finishes what is in flight and ends.
"""

TOKEN_VARIABLE = "GFL_TOKEN"


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m infer.serve", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        help=".onnx, .pt, .pt2 or .om, or a folder of exports at several sizes",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine alone)")
    add("--port", type=int, default=8000, help="0: any that is free (default %(default)s)")
    add(
        "--token",
        default=os.environ.get(TOKEN_VARIABLE),
        metavar="TEXT",
        help="answer requests with the header 'Authorization: Bearer TEXT' alone; in the environment, where no other "
        f"user sees it: {TOKEN_VARIABLE}",
    )
    add("--open", action="store_true", help="listen beyond this machine without a token")
    add("--allow_host", action="append", default=[], metavar="NAME", help="another name that requests may be sent to")
    add(
        "--max_batch",
        type=int,
        metavar="N",
        help="pictures a run of the model, at most (default 8; an exported file has its own)",
    )
    add(
        "--max_wait_ms",
        type=float,
        default=5.0,
        metavar="MS",
        help="how long a picture waits for others to share a run (default %(default)s)",
    )
    add("--max_connections", type=int, default=512, metavar="N", help="at a time, idle ones too (default %(default)s)")
    add("--max_queue", type=int, default=128, metavar="N", help="pictures inside at a time (default %(default)s)")
    add("--max_body_mb", type=int, default=20, metavar="N", help="MB of a request (default %(default)s)")
    add("--max_pixels", type=int, default=64_000_000, metavar="N", help="of a picture (default %(default)s)")
    add("--timeout_s", type=float, default=30.0, metavar="S", help="of a request, in all (default %(default)s)")
    add(
        "--provider",
        default="auto",
        choices=("auto", "cpu", "cuda", "cann", "openvino"),
        help="what runs the model (default auto)",
    )
    add("--threads", type=int, default=0, metavar="N", help="of the model on a CPU (default 0: the runtime's choice)")
    add("--workers", type=int, default=1, metavar="N", help="processes, each with a model of its own (default 1)")
    return flags
