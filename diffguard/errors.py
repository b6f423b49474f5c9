"""The one exception that stands for a mistake of the user."""


class UserError(ValueError):
    """A user's mistake, told in one line.

    The message names what is wrong, what was expected and what to do. The scripts print it as
    `error: …` and exit with code 2, without a traceback; in Python it is an ordinary `ValueError`.
    """
