"""Shell completion of the whole program, all commands and their options."""

from __future__ import annotations

from jsonargparse import ArgumentParser
from shtab import SUPPORTED_SHELLS

from diffguard.errors import UserError
from diffguard_cli import compact, convert, evaluation, training, tune


def completion_script(shell: str) -> str:
    """Make the script that a shell loads to complete `diffguard`.

    Args:
        shell: A shell that shtab supports, such as `bash` or `zsh`.

    Raises:
        UserError: For another shell.
    """
    if shell not in SUPPORTED_SHELLS:
        shells = ", ".join(SUPPORTED_SHELLS)
        raise UserError(f"--print_completion: expected one of {shells}, got {shell}")
    program = ArgumentParser(prog="diffguard")
    commands = program.add_subcommands()
    commands.add_subcommand("train", training.build_parser())
    commands.add_subcommand("evaluate", evaluation.build_parser())
    commands.add_subcommand("tune", tune.build_parser())
    commands.add_subcommand("convert", convert.build_parser())
    commands.add_subcommand("compact", compact.build_parser())
    return program.get_completion_script(f"shtab-{shell}")
