"""An evaluation with a cascade, from the command line."""

import csv
import json

import numpy as np

import evaluate
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.score_table.table import ScoreTable
from tests.helpers.commands import start
from tests.helpers.html_page import read_page, select
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
    page = read_page((tmp_path / "cascade" / "report.html").read_text(encoding="utf-8"))
    captions = [e.text for e in select(page, "figcaption")]
    assert captions.count("guided") == (~clear).sum()
    assert captions.count("CAM") == len(table)
    for card in select(page, "article"):
        is_clear = card.attributes["data-stage"] == "1"
        assert ("No reconstruction: the verdict did not need" in card.text) == is_clear
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


def test_a_decision_of_the_baselines_never_runs_the_diffusion_model(ckpt, tmp_path, monkeypatch):
    write_images(tmp_path / "images", 12, "left", 3)
    words = (ckpt, "--images", tmp_path / "images", "--output")
    knn = ("--detector.decision", "knn")
    with monkeypatch.context() as patch:
        patch.setattr(PixelDenoiser, "predict_noise", None)
        assert start(*words, tmp_path / "out", *knn) == 0
    alone = (tmp_path / "out" / "scores.csv").read_bytes()
    table = ScoreTable.read(tmp_path / "out" / "scores.csv")
    assert set(table.scores) == {"msp", "knn", "fusion_baselines"}
    assert (table.stage == 1).all()
    assert not table.network_passes.any()
    # Another decision scores what is missing in the same folder, and nothing twice.
    assert start(*words, tmp_path / "out", "--panels", 0) == 0
    assert start(*words, tmp_path / "fresh", "--panels", 0) == 0
    both = [ScoreTable.read(tmp_path / name / "scores.csv") for name in ("out", "fresh")]
    assert list(both[0].scores) == list(both[1].scores)
    assert "diffguard/l2" in both[0].scores
    assert "diffguard/logits_l1" not in both[0].scores
    for name, values in both[0].scores.items():
        np.testing.assert_array_equal(values, both[1].scores[name])
    with monkeypatch.context() as patch:
        patch.setattr(PixelDenoiser, "predict_noise", None)
        assert start(*words, tmp_path / "out", *knn) == 0
    assert (tmp_path / "out" / "scores.csv").read_bytes() == alone
