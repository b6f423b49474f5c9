"""The exception that reports a user's mistake."""

import re


class UserError(ValueError):
    """A user's mistake, reported in one line.

    The message names what is wrong, what was expected and what to do. The scripts print it as
    `error: …` and exit with code 2, without a traceback; in Python it is an ordinary `ValueError`.
    """


def reason_of(error: Exception) -> str:
    """The message of another library's error, shortened to fit into a line of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return re.split(r"(?<=[\w)'\"`])\. ", text)[0][:200].rstrip(".")


def missing_package(use: str, package: str) -> str:
    """The error line for a package that is not installed.

    It names the package instead of an extra of this project, which would need an index or a clone.

    Args:
        use: The feature that needs the package, such as `LoRA`.
        package: Its name on the index.
    """
    return f"{use} needs the package {package}: pip install {package}"


USER_ERROR = 2


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without the marks of a list."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    lines = [line for line in lines if line.strip("-")]
    return " ".join(lines) or type(error).__name__
