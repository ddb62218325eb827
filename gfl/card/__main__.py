"""A model card: `python -m gfl.card runs/r50/.../best.pt [--output FILE.md]`.

What a checkpoint was trained on, how, with which result, its limits, licence fields to fill in, and its digests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gfl.card.facts import read_facts
from gfl.card.page import TO_FILL_IN, card
from gfl.errors import InputError
from gfl.files import write_atomic
from gfl.program import status_of
from gfl.say import say
from gfl.signals import interrupt_on_sigterm
from gfl.words import counted


def write_card(checkpoint: Path, output: Path, metrics: Path | None = None, *, overwrite: bool = False) -> None:
    """Write the card and say so. Raises InputError as `read_facts`, and for a file that is there already."""
    is_there = output.exists() or output.is_symlink()
    if is_there and not overwrite:
        raise InputError(
            f"{output} is there already, expected a new file, for what was filled in there would be lost; give "
            "--output, or --overwrite to write it anew"
        )
    facts = read_facts(checkpoint, metrics)
    text = card(facts)
    write_atomic(output, text)
    say(f"{'replaced' if is_there else 'wrote'} {output}")
    if facts.result_note:
        say(f"note: {facts.result_note}")
    say(f"{counted(text.count(TO_FILL_IN), 'field')} marked TO FILL IN, and license at its top, are yours to fill in")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.card", description=__doc__)
    flags.add_argument("checkpoint", type=Path, help="the best.pt or last.pt of a run")
    flags.add_argument("--output", type=Path, help="the file to write (default: card.md beside the checkpoint)")
    flags.add_argument("--metrics", type=Path, help="the metrics.json of gfl.evaluate (default: that of the run)")
    flags.add_argument("--overwrite", action="store_true", help="write over a card that is there")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Write the card; 0, 2 on a user's mistake, 128 and its number when a signal stops it."""
    arguments = parser().parse_args(argv)
    checkpoint: Path = arguments.checkpoint
    output = arguments.output or checkpoint.with_name("card.md")
    return status_of(lambda: write_card(checkpoint, output, arguments.metrics, overwrite=arguments.overwrite))


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())
