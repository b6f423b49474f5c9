"""The program `diffguard`: with commands to train, evaluate and tune detectors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from diffguard_cli.interrupts import leave_at_once

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COMMANDS = {
    "train": "train a classifier and a diffusion model, and calibrate a detector",
    "evaluate": "score ID and OOD sets or a folder of images with a detector",
    "tune": "choose a detector's settings on validation sets",
    "leaderboard": "print results as rows of OpenOOD's leaderboard",
    "baselines": "list the post-hoc baselines and their hyper-parameters",
    "convert": "convert a research checkpoint to a diffusers folder",
    "compact": "write the models of a run in bfloat16",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; a user's mistake gives one line and code 2.

    Args:
        argv: The command line, without the name of the program; defaults to `sys.argv`.
    """
    leave_at_once()  # the imports of a command take seconds
    options = _build_parser().parse_args(argv)
    if options.version:
        from diffguard import __version__

        sys.stdout.write(f"diffguard {__version__}\n")
        sys.exit(0)
    if options.print_completion is not None:
        from diffguard_cli.exit_codes import run

        run(_print_completion, [options.print_completion])
    if options.command not in COMMANDS:
        name = options.command
        mistake = "no command" if name is None else f"unknown command {name!a}"
        sys.stderr.write(f"error: {mistake}: expected one of {', '.join(COMMANDS)}\n")
        sys.exit(2)
    from diffguard_cli.exit_codes import run

    run(_module(options.command).main, options.arguments)


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="diffguard",
        description="Out-of-distribution detection for image classifiers with diffusion models.",
        epilog=f"commands:\n{lines}\n\n`diffguard COMMAND --help` lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument(
        "--print_completion",
        nargs="?",
        const="",
        metavar="SHELL",
        help="print the completion script for a shell, such as bash or zsh, and exit",
    )
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="one of the commands below")
    parser.add_argument(
        "arguments", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="options of the command"
    )
    return parser


def _print_completion(arguments: Sequence[str]) -> int:
    from diffguard_cli.completion import completion_script

    (shell,) = arguments
    sys.stdout.write(completion_script(shell, command_parsers()) + "\n")
    return 0


def command_parsers() -> dict[str, ArgumentParser]:
    """The parser of each command."""
    return {command: _module(command).build_parser() for command in COMMANDS}


def _module(command: str) -> ModuleType:
    """Import a single command, because the libraries of the others take seconds."""
    if command == "train":
        from diffguard_cli import training

        return training
    if command == "evaluate":
        from diffguard_cli import evaluation

        return evaluation
    if command == "tune":
        from diffguard_cli import tune

        return tune
    if command == "leaderboard":
        from diffguard_cli import leaderboard

        return leaderboard
    if command == "baselines":
        from diffguard_cli import baselines

        return baselines
    if command == "convert":
        from diffguard_cli import convert

        return convert
    from diffguard_cli import compact

    return compact
