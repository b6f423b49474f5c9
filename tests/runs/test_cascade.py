"""An evaluation with a cascade, from the command line."""

import csv
import json

import numpy as np

import evaluate
from diffguard.score_table.table import ScoreTable
from tests.helpers.commands import start
from tests.helpers.tiny_project import write_images

CASCADE = ("--detector.fusion.rule", "cascade", "--detector.fusion.band", "[0.3, 0.9]")


def test_clear_images_skip_the_diffusion_model_in_an_evaluation(ckpt, tmp_path, capsys):
    assert start(ckpt, "--panels", 0, "--output", tmp_path / "mean") == 0
    assert start(ckpt, "--panels", 0, "--output", tmp_path / "cascade", *CASCADE) == 0
    assert "calibrating" not in capsys.readouterr().err
    mean = ScoreTable.read(tmp_path / "mean" / "scores.csv")
    table = ScoreTable.read(tmp_path / "cascade" / "scores.csv")
    clear = table.stage == 1
    assert clear.any()
    assert not clear.all()
    for name in ("diffguard", "diffguard/l2"):
        assert np.isnan(table.scores[name][clear]).all()
        assert np.array_equal(table.scores[name][~clear], mean.scores[name][~clear])
    assert (table.network_passes == np.where(clear, 0, mean.network_passes)).all()
    results = json.loads((tmp_path / "cascade" / "results.json").read_text())
    names = {row["score"] for row in results["rows"]}
    assert {"fusion", "fusion_baselines", "knn"} <= names
    assert "diffguard" not in names
    assert sum(row["n"] for row in results["stages"] if row["stage"] == 1) == clear.sum()
    # A cascade and a mean of the same images can be compared.
    folders = [tmp_path / "mean", tmp_path / "cascade"]
    words = ["--scores", *map(str, folders), "--output", str(tmp_path / "both")]
    assert evaluate.main(words) == 0
    joint = json.loads((tmp_path / "both" / "results.json").read_text())
    assert "fusion (cascade)" in {row["score"] for row in joint["rows"]}


def test_the_images_of_a_folder_have_a_deciding_stage(ckpt, tmp_path, capsys):
    write_images(tmp_path / "images", 12, "left", 3)
    output = tmp_path / "out"
    assert start(ckpt, "--images", tmp_path / "images", "--output", output, *CASCADE) == 0
    with (output / "images.csv").open() as file:
        stages = [int(row["stage"]) for row in csv.DictReader(file)]
    assert stages == ScoreTable.read(output / "scores.csv").stage.tolist()
    assert set(stages) == {1, 2}
    assert f"{stages.count(1)} images were decided by the baselines alone" in capsys.readouterr().out
