"""`python -m infer.bulk`: a trained model over millions of pictures; the flags say more."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from infer.bulk.flags import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do the job that the command line asks for.

    0; 1 where too many pictures failed, or one is missing or there twice; 2 on a user's mistake; 128 and its number
    when a signal stops it.
    """
    arguments = parser().parse_args(argv)
    # The project's imports come late, so that --help answers at once.
    from gfl.packages import import_package
    from gfl.program import status_of
    from infer.bulk.ray_settings import settle_ray
    from infer.opencv_settings import settle_opencv

    settle_opencv(arguments.most_pixels)
    settle_ray()

    def work() -> int:
        for package in ("pyarrow", "fsspec", "ray.data"):
            import_package(package, f"a bulk job needs the package {package}, which", "pip install 'gflv2[ray]'")
        from infer.bulk.job import run

        return run(arguments)

    return status_of(work, stopped="stopped; the same command goes on")


if __name__ == "__main__":
    from gfl.signals import interrupt_on_sigterm

    interrupt_on_sigterm()
    sys.exit(main())
