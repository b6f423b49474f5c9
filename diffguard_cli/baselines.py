"""The command `baselines`: list the post-hoc baselines."""

from __future__ import annotations

from collections.abc import Sequence

from diffguard.printing import say
from diffguard.scores.baseline_list import (
    EXAMPLE_CLASSES,
    EXAMPLE_IMAGES,
    EXAMPLE_WIDTH,
    HEADER,
    baseline_rows,
)
from diffguard_cli.parser import Parser, parse


def main(argv: Sequence[str]) -> int:
    """Print the table of baselines.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.
    """
    parse(build_parser(), argv)
    for name, needs, parameters, paper in baseline_rows():
        say(f"{name} ({paper})", f"  needs {needs}")
        say(*(f"  detector.{line}" for line in parameters.split(" · ") if line))
    say(
        "",
        f"{HEADER[2]}, for {EXAMPLE_IMAGES:,} ID training images, {EXAMPLE_WIDTH:,} "
        f"features and {EXAMPLE_CLASSES:,} classes",
    )
    return 0


def build_parser() -> Parser:
    """The command line of `baselines`."""
    return Parser(
        "List the post-hoc baselines: what each needs, and its hyper-parameters.",
        prog="diffguard baselines",
        usage="",
        config=False,
    )
