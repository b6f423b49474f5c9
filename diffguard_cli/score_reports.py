"""Reports of finished scores, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.storage.paths import user_path
from diffguard_cli.evaluation_options import add_full_table, add_scores_arguments
from diffguard_cli.parser import Parser, parse
from diffguard_cli.program import command_line


def report_scores(argv: Sequence[str], command: str) -> int:
    """Report from score tables alone, or from the results of several seeds.

    Args:
        argv: The command line, without the name of the program.
        command: The whole command line, for the report.

    Returns:
        The exit code.

    Raises:
        UserError: If the command line, a table or a file of results is wrong.
    """
    parser = Parser("Report again from evaluation folders.", prog=command_line("evaluate"))
    add_scores_arguments(parser)
    parser.add_argument("--output", type=str | None, default=None)
    add_full_table(parser)
    options = parse(parser, argv)
    if options.over_seeds:
        return _report_seeds(options)
    if len(options.scores) > 1 and options.output is None:
        raise UserError("--output is missing: name a folder for the joint results of several runs")

    from diffguard.report.publish import report_again

    folders = [user_path(folder, "--scores") for folder in options.scores]
    source = folders[0].parent if folders[0].is_file() else folders[0]
    report_again(
        folders,
        options.fuse,
        Path(options.output) if options.output else source,
        groups=options.groups,
        full_table=options.full_table,
        command=command,
    )
    return 0


def _report_seeds(options: Any) -> int:
    """Print the results of several seeds, and write them if `--output` names a folder."""
    if options.fuse or options.groups or options.full_table:
        raise UserError(
            "--over_seeds reads finished results: leave out --fuse, --groups and --full_table"
        )

    from diffguard.report.seed_tables import to_markdown, write_seeds
    from diffguard.report.seeds import read_seeds

    seeds = read_seeds([user_path(folder, "--scores") for folder in options.scores])
    say(*to_markdown(seeds).splitlines())
    if options.output:
        write_seeds(user_path(options.output, "--output"), seeds)
    return 0
