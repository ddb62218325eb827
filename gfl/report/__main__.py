"""A page about a run or an evaluation, one file: `python -m gfl.report RUN`, or of any COCO results file.

python -m gfl.report RUN                    makes the report and the pictures of a run's or evaluation's folder anew
python -m gfl.report --annotations val.json --results results.json --images val/ --output report.html
python -m gfl.report --compare RUN RUN ...  numbers side by side, settings that differ, pictures that changed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gfl.data.coco import read_coco
from gfl.data.shards.pattern import images_at
from gfl.errors import InputError
from gfl.files import write_atomic
from gfl.program import status_of
from gfl.say import say
from gfl.signals import interrupt_on_sigterm


def run(arguments: argparse.Namespace) -> None:
    """Write the page that the command line asks for."""
    # Here and not above: the settings of a run need torch, and the rest of this room does without it.
    from gfl.record.run_folder import PAGE
    from gfl.record.run_report import compare_folders, report_folder, results_page

    of_results = (arguments.annotations, arguments.results, arguments.images)
    asked = [arguments.folder is not None, bool(arguments.compare), any(each is not None for each in of_results)]
    if sum(asked) != 1:
        raise InputError(
            f"got {sum(asked)} things to report on, expected one: the folder of a run or evaluation, --compare RUN "
            "RUN, or --annotations, --results and --images"
        )
    if arguments.folder is not None:
        if arguments.output is not None:
            raise InputError(f"got --output with {arguments.folder}, whose page goes into it; leave --output out")
        page = report_folder(arguments.folder)
    elif arguments.compare:
        page = arguments.output or Path("compare.html")
        write_atomic(page, compare_folders(arguments.compare))
    else:
        if None in of_results:
            raise InputError("got only some of --annotations, --results and --images, expected all three; give them")
        page = arguments.output or arguments.results.with_name(PAGE)
        data = read_coco(arguments.annotations, arguments.images, keep_empty=True)
        write_atomic(page, results_page(data, arguments.results))
    say(f"look at {page}")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m gfl.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("folder", nargs="?", type=Path, metavar="RUN", help="the folder of a run or of an evaluation")
    flags.add_argument("--compare", nargs="+", type=Path, metavar="RUN", help="folders on the same validation pictures")
    flags.add_argument("--annotations", type=Path, help="COCO instances JSON")
    flags.add_argument("--results", type=Path, help="COCO results, a JSON list of detections")
    flags.add_argument("--images", type=images_at, help="the folder or shards of the pictures")
    flags.add_argument(
        "--output", type=Path, help="the page to write (default: compare.html here, or report.html beside --results)"
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Report as the command line says; 0, 2 on a user's mistake, 128 and its number when a signal stops it."""
    return status_of(lambda: run(parser().parse_args(argv)), stopped="stopped; run it again for its page")


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())
