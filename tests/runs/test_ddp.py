"""An evaluation on two processes gives the table of one, to the last bit."""

import json
import shutil

import pytest

from diffguard.score_table.table import ScoreTable
from diffguard.settings.methods import METHODS as NAMES
from tests.helpers.commands import start
from tests.helpers.launchers import under_slurm

# All methods, which are fitted again.
METHODS = [
    *("--detector.methods", "[" + ", ".join(NAMES) + "]"),
    *("--detector.diffpath.components", 2, "--detector.msma.components", 2),
    *("--detector.msma.levels", 2, "--detector.ddpm_ood.levels", 2, "--detector.ddpm_ood.images", 8),
    *("--detector.diffnb.repeats", 1, "--detector.minority.repeats", 1),
    *("--detector.lmd.repeats", 1, "--detector.lmd.distance", "l2"),
]


def test_two_processes_give_the_table_of_one(run_folder, tmp_path):
    ckpt = shutil.copy(run_folder / "detector.ckpt", tmp_path / "detector.ckpt")
    common = ["--trainer.threads", 1, "--panels", 0, *METHODS]
    assert start(ckpt, *common, "--output", tmp_path / "one") == 0
    words = ["--ckpt", ckpt, *common, "--trainer.progress", "true", "--output", tmp_path / "two"]
    first, second = under_slurm("evaluate", words, tmp_path)
    assert sorted(p.name for p in (tmp_path / "two" / "scores").glob("*.csv")) == [
        "rank-0.csv",
        "rank-1.csv",
    ]
    single = (tmp_path / "one" / "scores.csv").read_bytes()
    assert (tmp_path / "two" / "scores.csv").read_bytes() == single
    table = ScoreTable.read(tmp_path / "two" / "scores.csv")
    assert len(table) == 34
    assert set(NAMES) <= set(table.scores)
    results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two")]
    assert results[0]["rows"] == results[1]["rows"]
    costs = (run["cost"]["scores"] for run in results)
    for row, other in zip(*costs, strict=True):
        assert row.pop("score") == other.pop("score")
        assert min(row.pop("milliseconds"), other.pop("milliseconds")) > 0
        assert row == pytest.approx(other, rel=1e-12)
    # Only the first process reports the progress and the results of both.
    assert second == ""
    assert first.count("ID accuracy") == first.count("evaluate: done after") == 1
    assert " of 34 images" in first
