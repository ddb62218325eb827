"""The one exception type for mistakes of a user, and how it quotes other errors."""

from __future__ import annotations

from gfl.words import printable


class InputError(Exception):
    """A user's mistake, told in one sentence: what was got, what was expected, how to mend it.

    Every main catches it once, prints it to stderr without a traceback and exits with 2. Names of files and classes
    may hold line ends and control characters: they become escapes here, so that a message is one line everywhere.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class NotHereError(InputError):
    """What was asked for would be right elsewhere: this machine, or this installation, lacks something for it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the full stop; the error's type where there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
