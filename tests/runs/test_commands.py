"""The scripts as real commands: exit codes, and one line on standard error."""


import pytest
import torch

from diffguard import Detector
from tests.helpers.commands import command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate.py", "--ckpt", "nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["train.py", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message):
    result = command(*words)
    assert result.returncode == 2
    assert result.stdout == ""
    line = result.stderr.rstrip("\n")
    assert "\n" not in line
    assert line.startswith("error: ")
    assert message in line


def test_help_lists_the_sections():
    result = command("train.py", "--help")
    assert result.returncode == 0
    for section in ("--data.", "--detector.", "--trainer."):
        assert section in result.stdout


def test_a_checkpoint_gives_the_same_scores_in_a_new_process(run_folder, tmp_path, images):
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; torch.set_num_threads(1); from diffguard import Detector;"
        "images = torch.load(sys.argv[2], weights_only=True);"
        "torch.save(Detector.load(sys.argv[1]).score(images), sys.argv[3])"
    )
    ckpt, file, scores = run_folder / "detector.ckpt", tmp_path / "images.pt", tmp_path / "s.pt"
    result = command("-c", code, ckpt, file, scores)
    assert result.returncode == 0, result.stderr
    ours = Detector.load(ckpt).score(images)
    assert torch.equal(ours, torch.load(scores, weights_only=True))


def test_the_method_needs_no_lightning():
    code = "import sys, diffguard; print({'lightning', 'pytorch_lightning'} & set(sys.modules))"
    result = command("-c", code)
    assert result.stdout.strip() == "set()", result.stdout
