"""The program `diffguard` and its commands."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from diffguard_cli.main import COMMANDS, main
from tests.helpers.commands import command

ROOT = Path(__file__).parents[2]


def test_help_lists_the_commands_and_imports_no_library():
    code = """if True:
        import sys
        from diffguard_cli.main import main
        try:
            main(["--help"])
        except SystemExit as end:
            assert not {"torch", "lightning", "jsonargparse"} & set(sys.modules)
            sys.exit(end.code)
    """
    result = command("-c", code)
    assert result.returncode == 0, result.stderr
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: no command: expected one of train, evaluate, tune, convert, compact\n"),
        (["trian"], "error: unknown command 'trian': expected one of train, evaluate, tune, "),
        (["evaluate"], "error: --ckpt is missing"),
        (["train", "--seed", "x"], "error: --seed: expected a whole number, got x\n"),
        (["tune", "nowhere.ckpt"], "error: nowhere.ckpt does not exist"),
        (["convert", "nowhere", "there"], "error: nowhere"),
        (["compact", "nowhere", "there"], "error: nowhere holds no trained classifier"),
    ],
)
def test_mistake_of_a_command_is_one_line_and_exit_code_2(words, line, capsys, monkeypatch):
    monkeypatch.setattr("diffguard_cli.main.leave_at_once", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1


def test_console_script_is_installed_and_the_scripts_are_not():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["scripts"]["diffguard"].partition(":")
    assert callable(getattr(import_module(module), name))
    assert "py-modules" not in project["tool"]["setuptools"]
