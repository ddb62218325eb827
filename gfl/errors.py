"""The one exception type for what a user can mend."""


class InputError(Exception):
    """A user's mistake, told in one sentence: what was got, what was expected, how to mend it.

    Every main catches it once, prints it to stderr without a traceback and exits with 2.
    """
