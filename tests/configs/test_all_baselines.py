"""The preset of all baselines is complete and is found by its name."""

from diffguard.scores.baseline_table import BASELINES
from diffguard_cli.parser import parse
from train import build_parser


def test_all_baselines_are_one_option_away():
    arguments = parse(build_parser(), ["--config", "cifar10", "--config", "all_baselines"])
    assert sorted(arguments.detector.baselines) == sorted(BASELINES)
