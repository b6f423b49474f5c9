"""The preset of all baselines is complete and is found by its name."""

import pytest

from diffguard.scores.baseline_table import BASELINES
from diffguard_cli.parser import parse
from train import build_parser


@pytest.mark.parametrize("config", ["cifar10", "imagenet"])
def test_all_baselines_are_one_option_away(config):
    arguments = parse(build_parser(), ["--config", config, "--config", "all_baselines"])
    assert sorted(arguments.detector.baselines) == sorted(BASELINES)
