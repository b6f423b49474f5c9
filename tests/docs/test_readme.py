"""What the README shows is what works."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import evaluate
import train

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = "benchmarks|configs|datamodules|diffguard|diffguard_cli|lightning_modules|tests"
FILE = rf"(?<!/)\b((?:{ROOMS})/[\w/]+\.(?:py|yaml))"


def test_the_python_lines_run_as_they_stand(run_folder, tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    shutil.copy(run_folder / "detector.ckpt", tmp_path / "runs" / "demo" / "detector.ckpt")
    script = "import torch; torch.set_num_threads(1); images = torch.rand(3, 3, 30, 40)\n" + code
    script += "import sys; assert 'lightning' not in sys.modules\n"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tensor(") == 5


def test_the_commands_name_files_that_are_there():
    for name in re.findall(r"python (\w+\.py)", README):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"^ {4}make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_files_that_the_pages_name_are_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(FILE, text):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for path in re.findall(r"\]\((?!http|#)([^)#]+)\)", text):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_options_that_the_pages_name_are_there():
    parsers = train.build_parser(), evaluate.build_parser()
    known = {action.dest for parser in parsers for action in parser._actions}
    for page in PAGES:
        for option in re.findall(r"--([a-z_]+(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8")):
            # The last part may be a key of the user's.
            assert {option, option.rpartition(".")[0]} & known, f"{page.name}: {option}"


def test_commands_mean_the_same_in_bash_and_zsh():
    """zsh expands brackets that match no file to an error, and does not split variables."""
    for page in PAGES:
        # Fenced blocks are Python and YAML; commands are indented.
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        blocks = re.findall(r"^(?: {4}|\t)[ \t]*(.*)$", text, re.MULTILINE)
        inline = re.findall(r"`((?:--|python |pip |make |torchrun )[^`]*)`", text)
        for command in [*blocks, *inline]:
            unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "''", command)
            told = f"{page.name}: {command}"
            assert not re.search(r"[\[\]{}*?](?!\S*=\()", unquoted), told
            assert not re.search(r"(^|\s)\$\w+(\s|$)", unquoted), told


def test_the_paper_configs_say_what_they_are_combined_with():
    for path in (ROOT / "configs").glob("paper_*.yaml"):
        assert list(yaml.safe_load(path.read_text())) == ["detector"]
        assert f"--config configs/{path.name}" in path.read_text()
