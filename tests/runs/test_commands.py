"""The scripts as real commands: exit codes, and one line on standard error."""

import pytest
import torch

from diffguard import Detector
from tests.helpers.commands import command
from tests.helpers.scoring_processes import PROCESSES


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


def test_help_lists_the_sections_and_does_not_import_lightning():
    code = """if True:
        import sys
        import evaluate, train
        parsers = train.build_parser(), evaluate.build_parser()
        print(*(parser.format_help() for parser in parsers), sep="END OF TRAIN")
        print({"lightning", "torchmetrics", "torchvision", "diffusers"} & set(sys.modules))
    """
    result = command("-c", code)
    assert result.returncode == 0, result.stderr
    for text in result.stdout.split("END OF TRAIN"):
        for section in ("--data.", "--detector.", "--trainer."):
            assert section in text
    assert result.stdout.endswith("set()\n")


def _score(ckpt, images, scores):
    torch.set_num_threads(1)
    torch.save(Detector.load(ckpt).score(images), scores)


def test_a_checkpoint_gives_the_same_scores_in_a_new_process(run_folder, tmp_path, images):
    ckpt, scores = run_folder / "detector.ckpt", tmp_path / "scores.pt"
    process = PROCESSES.Process(target=_score, args=(ckpt, images, scores))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    ours = Detector.load(ckpt).score(images)
    assert torch.equal(ours, torch.load(scores, weights_only=True))
