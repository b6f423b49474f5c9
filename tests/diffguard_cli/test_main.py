"""The program `diffguard` and its commands."""

import shlex
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import diffguard
from diffguard.errors import UserError
from diffguard_cli.completion import completion_script
from diffguard_cli.main import COMMANDS, command_parsers, main
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
        ([], f"error: no command: expected one of {', '.join(COMMANDS)}\n"),
        (["trian"], "error: unknown command 'trian': expected one of train, evaluate, tune, "),
        (["--print_completion"], "error: --print_completion: expected one of bash, "),
        (["evaluate"], "error: --ckpt is missing"),
        (["train", "--seed", "x"], "error: --seed: expected a whole number, got x\n"),
        (["tune", "nowhere.ckpt"], "error: nowhere.ckpt does not exist"),
        (["convert", "nowhere", "there"], "error: nowhere"),
        (["baselines", "knn"], "error: unrecognized arguments: knn\n"),
        (["compact", "nowhere", "there"], "error: nowhere has no trained classifier"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(words, line, capsys, monkeypatch):
    monkeypatch.setattr("diffguard_cli.main.leave_at_once", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(line)
    assert output.err.count("\n") == 1


def run_main(*words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


def test_version_equals_that_of_the_package(capsys, monkeypatch):
    monkeypatch.setattr("diffguard_cli.main.leave_at_once", lambda: None)
    assert run_main("--version") == 0
    assert capsys.readouterr().out == f"diffguard {diffguard.__version__}\n"


@pytest.fixture(scope="module")
def script():
    return completion_script("bash", command_parsers())


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("ev", "evaluate"),
        ("train --data.on", "--data.on_error"),
        ("train --data.on_error ", "stop skip"),
        ("evaluate --dry", "--dry_run"),
        ("tune --de", "--device --debug --depths"),
        ("convert --noise_schedule ", "linear cosine"),
    ],
)
def test_bash_completes_commands_keys_and_values(script, line, choices):
    words = ["diffguard", *line.split(" ")]
    query = (
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_shtab_diffguard 2>/dev/null; echo "${COMPREPLY[@]}"'
    )
    reply = subprocess.run(
        ["bash"], input=f"{script}\n{query}", capture_output=True, text=True, check=True
    )
    assert set(reply.stdout.split()) == set(choices.split())


def test_completion_for_an_unknown_shell_is_refused():
    with pytest.raises(UserError, match=r"^--print_completion: expected one of bash, .*got ksh"):
        completion_script("ksh", {})


def test_only_the_console_script_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["scripts"]["diffguard"].partition(":")
    assert callable(getattr(import_module(module), name))
    assert "py-modules" not in project["tool"]["setuptools"]
