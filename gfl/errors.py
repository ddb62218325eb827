"""The one exception type for what a user can mend, and the words of others in it."""


class InputError(Exception):
    """A user's mistake, told in one sentence: what was got, what was expected, how to mend it.

    Every main catches it once, prints it to stderr without a traceback and exits with 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its stop; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
