"""Shell completion of the whole program, all commands and their options."""

from __future__ import annotations

from collections.abc import Mapping

from jsonargparse import ArgumentParser
from shtab import SUPPORTED_SHELLS

from diffguard.errors import UserError


def completion_script(shell: str, parsers: Mapping[str, ArgumentParser]) -> str:
    """Make the script that a shell loads to complete `diffguard`.

    Args:
        shell: A shell that shtab supports, such as `bash` or `zsh`.
        parsers: The parser of each command.

    Raises:
        UserError: For another shell.
    """
    if shell not in SUPPORTED_SHELLS:
        shells = ", ".join(SUPPORTED_SHELLS)
        raise UserError(f"--print_completion: expected one of {shells}, got {shell or 'none'}")
    program = ArgumentParser(prog="diffguard")
    commands = program.add_subcommands()
    for command, parser in parsers.items():
        commands.add_subcommand(command, parser)
    return program.get_completion_script(f"shtab-{shell}")
