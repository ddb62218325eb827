"""`python -m infer.serve`: a trained model over HTTP; the flags say more."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from infer.serve.flags import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as the command line says; 0 when it was told to end, 2 on a user's mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    # The project's imports come late, so that --help answers at once.
    from gfl.packages import import_package
    from gfl.program import status_of
    from infer.opencv_settings import settle_opencv

    settle_opencv(arguments.max_pixels)

    def serve() -> None:
        for package in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
            import_package(package, f"serving needs the package {package}, which", "pip install 'gflv2[serve]'")
        from infer.serve.command import run

        run(arguments, words)

    return status_of(serve)  # a signal ends it so while the model is opened; afterwards the server takes it


if __name__ == "__main__":
    from gfl.signals import interrupt_on_sigterm

    interrupt_on_sigterm()
    sys.exit(main())
