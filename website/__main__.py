"""`python -m website --output build/docs` writes the pages that mkdocs.yml makes a site of; `make docs` does both."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gfl.errors import InputError
from gfl.say import say
from website.assemble import write_pages


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m website", description=__doc__)
    flags.add_argument(
        "--output", type=Path, default=Path("build/docs"), help="a folder, which is replaced (%(default)s)"
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; 0, or 2 with one sentence on a user's mistake."""
    arguments = parser().parse_args(argv)
    try:
        if (arguments.output / "index.md").is_file():  # pages of before, and nothing else
            shutil.rmtree(arguments.output)
        write_pages(arguments.output)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
