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
    from gfl.errors import InputError
    from gfl.packages import import_package
    from gfl.say import say
    from gfl.signals import exit_code
    from infer.opencv_settings import settle_opencv

    settle_opencv(arguments.max_pixels)
    try:
        for package in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
            import_package(package, f"serving needs the package {package}, which", "pip install 'gflv2[serve]'")
        from infer.serve.command import run

        run(arguments, words)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as stopped:  # while the model was opened
        say("\nstopped", error=True)
        return exit_code(stopped)
    return 0


if __name__ == "__main__":
    from gfl.signals import interrupt_on_sigterm

    interrupt_on_sigterm()
    sys.exit(main())
