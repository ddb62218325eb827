"""The one exception type for mistakes of a user, and how it quotes other errors."""


class InputError(Exception):
    """A user's mistake, told in one sentence: what was got, what was expected, how to mend it.

    Every main catches it once, prints it to stderr without a traceback and exits with 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the full stop; the error's type where there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
