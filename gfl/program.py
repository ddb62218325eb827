"""How a program ends: its exit status, and what it says of a user's mistake or a signal."""

from __future__ import annotations

from collections.abc import Callable

from gfl.errors import InputError
from gfl.say import say
from gfl.signals import exit_code


def status_of(work: Callable[[], int | None], *, stopped: str = "stopped") -> int:
    """Do the work; its own status (None: 0), 2 on a user's mistake, 128 and its number when a signal stops it.

    stopped: what is said then.
    """
    try:
        return work() or 0
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as signalled:
        say(f"\n{stopped}", error=True)
        return exit_code(signalled)
