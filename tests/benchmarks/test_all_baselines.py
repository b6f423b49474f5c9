"""The config of docs/results.md names every baseline."""

from pathlib import Path

import yaml

from diffguard.scores.baseline_table import BASELINES
from diffguard.settings.plain import from_dict

CONFIG = Path(__file__).parents[2] / "benchmarks" / "all_baselines.yaml"


def test_all_baselines_are_named():
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["detector"]
    assert sorted(from_dict(settings).baselines) == sorted(BASELINES)
