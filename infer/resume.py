"""How a run begins, goes on where another ended, and what is left of one that fails."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from gfl.errors import InputError
from gfl.say import say
from infer.formats import FORMATS
from infer.head import RESUMED, Head, differences
from infer.journal import Journal, new_journal, resumed_journal
from infer.output_folder import DRAWN, JOURNAL, SUMMARY, check_free, remove_leftovers, remove_results, results_in
from infer.rows import Row


def is_whole(folder: Path, head: Head) -> bool:
    """Whether the folder holds the whole run; InputError where it is one of another model, other pictures or flags."""
    path = folder / SUMMARY
    if not path.exists():
        return False
    try:
        summary = json.loads(path.read_bytes())
        different = next(differences(summary, cast(Mapping[str, object], head), RESUMED), None)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}), expected that of infer; give another --output") from error
    if different is not None:
        raise InputError(
            f"{path} is of {different} than this run, expected the same for --resume; give another --output"
        )
    expected = [*FORMATS[head["format"]], *([DRAWN] if head["draw"] else [])]
    if missing := [name for name in expected if name not in results_in(folder)]:
        raise InputError(
            f"{folder} holds {SUMMARY} of a whole run without {' and '.join(missing)}, expected all of its results; "
            f"give another --output, or remove {SUMMARY} and what is beside it to detect again"
        )
    if head["format"] != "jsonl":
        (folder / JOURNAL).unlink(missing_ok=True)  # of a run that was killed after its last file
    return True


def begin(
    folder: Path, head: Head, *, resume: bool, names: Sequence[str] | None, keep: Callable[[Row], bool]
) -> Journal:
    """A new results.jsonl, or with `resume` the one that is there; InputError as `new_journal`, `resumed_journal`."""
    path = folder / JOURNAL
    if resume and os.path.lexists(path):
        journal = resumed_journal(path, head, names, keep)
        remove_leftovers(folder)
        return journal
    check_free(folder)  # another run may have begun meanwhile
    return new_journal(path, head)


@contextlib.contextmanager
def remains(journal: Journal, shown: Path, *, streamed: bool, total: int) -> Iterator[None]:
    """Around a run: what is left of one that fails or is stopped.

    What was streamed stays, to be gone on with, and so does what is complete and could not be made into its format.
    Otherwise, and where no picture was read, nothing is left.

    shown: what the user calls the folder. total: pictures of the input, 0 where nobody knows.
    """
    try:
        yield
    except BaseException:
        answered = read = 0
        if streamed or journal.is_complete:
            with contextlib.suppress(InputError, OSError):  # of a torn last line, or of a folder that is gone
                for row in journal.rows():
                    answered += 1
                    read += row["failure"] is None
        if read:
            of = f" of {total:,}" if total else ""
            say(f"\n{shown / JOURNAL} holds the first {answered:,}{of}; go on with --resume", error=True)
        elif journal.is_there:  # else what lies there is another run's
            remove_results(journal.path.parent)
        raise
