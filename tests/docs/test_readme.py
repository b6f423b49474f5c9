"""Commands, code, files and names in the documentation work."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import evaluate
import train

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = "benchmarks|configs|datamodules|diffguard|diffguard_cli|lightning_modules|tests"
FILE = rf"(?<!/)\b((?:{ROOMS})/[\w/]+\.(?:py|yaml))"
NAME = r"`((?:datamodules|diffguard|diffguard_cli|lightning_modules)(?:\.[A-Za-z_]\w*)+)`"


def test_the_python_example_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    script = "import torch; torch.set_num_threads(1)\n" + code
    script += "import sys; assert 'lightning' not in sys.modules\n"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    digit, letter = result.stdout.splitlines()
    assert digit.startswith("3 False 0.")
    assert " True 0.0" in letter


def test_files_of_the_commands_exist():
    for name in re.findall(r"python (\w+\.py)", README):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"^ {4}make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_files_on_the_pages_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(FILE, text):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for path in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_names_on_the_pages_exist():
    names = {name for page in PAGES for name in re.findall(NAME, page.read_text(encoding="utf-8"))}
    for name in names - {"diffguard.json"}:
        pkgutil.resolve_name(name)
    assert len(names) >= 3


@pytest.mark.parametrize("page", ["README.md", "docs/method.md"])
def test_every_step_of_the_method_names_its_module(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "README.md":
        table = text.partition("## One image, step by step")[2].partition("\n\n[")[0]
        steps = table.strip().splitlines()[2:]
    else:
        steps = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(steps) == 11
    for step in steps:
        modules = re.findall(r"`((?:datamodules|diffguard)/[\w/]+(?:\.py|/))`", step)
        assert modules, step
        assert all((ROOT / module).exists() for module in modules), step


def test_options_on_the_pages_exist():
    parsers = train.build_parser(), evaluate.build_parser()
    keys = {action.dest for parser in parsers for action in parser._actions}
    for page in PAGES:
        for option in re.findall(r"--([a-z_]+(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8")):
            # The last part may be a name that the user chooses.
            assert {option, option.rpartition(".")[0]} & keys, f"{page.name}: {option}"


def test_commands_mean_the_same_in_bash_and_zsh():
    """zsh expands brackets that match no file to an error, and does not split variables."""
    for page in PAGES:
        # Fenced blocks are Python and YAML; commands are indented.
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        blocks = re.findall(r"^(?: {4}|\t)[ \t]*(.*)$", text, re.MULTILINE)
        inline = re.findall(r"`((?:--|python |pip |make |torchrun )[^`]*)`", text)
        for command in [*blocks, *inline]:
            unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "''", command)
            place = f"{page.name}: {command}"
            assert not re.search(r"[\[\]{}*?](?!\S*=\()", unquoted), place
            assert not re.search(r"(^|\s)\$\w+(\s|$)", unquoted), place


def test_the_paper_configs_show_how_to_combine_them():
    for path in (ROOT / "configs").glob("paper_*.yaml"):
        assert list(yaml.safe_load(path.read_text())) == ["detector"]
        assert f"--config configs/{path.name}" in path.read_text()
