"""`evaluate.main`: results, joined runs, resuming and changed settings."""

import json
import shutil

import numpy as np
import pytest
import torch

import evaluate
from diffguard import Detector
from diffguard.errors import UserError
from diffguard.report.metrics import auroc
from diffguard.score_table.table import ScoreTable
from diffguard.score_table.writer import read_done
from diffguard.score_table.writer import ScoreWriter
from diffguard.scores.calibration import Calibration
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.plain import to_dict
from diffguard_cli import scoring_folder
from tests.helpers import fake_wandb
from tests.helpers.commands import command, start
from tests.helpers.html_page import read_page, select
from tests.helpers.old_settings import version_2
from tests.helpers.tiny_project import write_images


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, run_folder):
    """An evaluation of the tiny run. Tests must not change it."""
    folder = tmp_path_factory.mktemp("evaluated")
    ckpt = shutil.copy(run_folder / "detector.ckpt", folder / "detector.ckpt")
    assert evaluate.main(["--ckpt", str(ckpt)]) == 0
    return folder


def test_every_image_has_one_row_and_results_follow_from_the_table(evaluated):
    table = ScoreTable.read(evaluated / "evaluation" / "scores.csv")
    assert table.dataset_names == ("shapes", "blank", "noise")
    assert [len(table.rows(name)) for name in table.dataset_names] == [18, 7, 9]
    results = json.loads((evaluated / "evaluation" / "results.json").read_text())
    assert results["id"]["n"] == 18
    calibration = Detector.load(evaluated / "detector.ckpt").calibration
    for entry in results["id"]["scores"]:
        assert entry["threshold"] == calibration.threshold(entry["score"], 0.95)
        scores = table.scores[entry["score"]][table.rows("shapes")]
        assert entry["accepted"] == (scores <= entry["threshold"]).mean()
    for row in results["rows"]:
        if row["dataset"] in ("near", "far"):
            continue
        ident, ood = table.rows("shapes"), table.rows(row["dataset"])
        score = table.scores[row["score"]]
        value = auroc(torch.from_numpy(score[ident]), torch.from_numpy(score[ood]))
        assert row["auroc"] == pytest.approx(float(value))
    names = {row["score"] for row in results["rows"]}
    assert {"diffguard", "diffguard/l2", "msp", "fusion", "fusion/knn", "fusion_baselines"} <= names
    assert results["cost"]["network_passes_per_image"] == pytest.approx(3 + 2 * 3)
    costs = {row.pop("score"): row for row in results["cost"]["scores"]}
    assert set(costs) == names
    assert all(row["milliseconds"] > results["cost"]["classifier_milliseconds"] > 0 for row in costs.values())
    passes = ("diffusion_passes", "classifier_passes", "gradients")
    assert [costs["fusion"][name] for name in passes] == [3 + 2 * 3, 2, 0]
    assert [costs["fusion_baselines"][name] for name in passes] == [0, 1, 0]
    assert {c["score"] for c in results["comparisons"]} == {"fusion", "diffguard"}
    for name in ("results.csv", "results.md", "manifest.json", "timing.jsonl"):
        assert (evaluated / "evaluation" / name).is_file()


def test_tensorboard_shows_the_evaluation(evaluated):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(evaluated / "tensorboard" / "evaluation")).Reload()
    tags = log.Tags()
    assert {"detector/typical_shapes", "detector/typical_blank", "detector/roc_diffguard"} <= set(
        tags["images"]
    )
    assert "near/auroc/fusion" in tags["scalars"]


def test_the_report_shows_the_results_and_the_images(evaluated):
    folder = evaluated / "evaluation"
    elements = read_page((folder / "report.html").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text())
    values = [
        float(e.attributes["data-value"])
        for e in select(elements, "td", data_dataset="near", data_metric="auroc")
    ]
    assert values == [row["auroc"] for row in results["rows"] if row["dataset"] == "near"]
    cards = select(elements, "article")
    assert {card.attributes["data-set"] for card in cards} == {"shapes", "blank", "noise"}
    table = ScoreTable.read(folder / "scores.csv")
    assert len(cards) == len(table)
    captions = [e.text for e in select(elements, "figcaption")]
    for head in ("input", "CAM", "guided", "|input − guided|"):
        assert captions.count(head) == len(table)
    # A few images are reconstructed again for the panels.
    assert 0 < captions.count("unguided") < len(table)
    threshold = next(r["threshold"] for r in results["id"]["scores"] if r["score"] == "fusion")
    for card in cards:
        score, is_id = float(card.attributes["data-score"]), card.attributes["data-set"] == "shapes"
        assert score in table.scores["fusion"]
        assert card.attributes["data-verdict"] == ("ood" if score > threshold else "id")
        wrong = "false alarm" if is_id else "missed OOD"
        correct = is_id == (score <= threshold)
        assert card.attributes["data-outcome"] == ("correct" if correct else wrong)
    assert results["settings"]["command"] in [e.text for e in select(elements, "pre")]


def test_results_are_reproduced_from_the_tables_alone(evaluated, tmp_path):
    code = (
        "import sys, evaluate; evaluate.main(sys.argv[1:]);"
        "print({'lightning', 'torchvision', 'diffusers', 'pytorch_ood'} & set(sys.modules))"
    )
    words = ["--scores", evaluated / "evaluation", "--output", tmp_path / "again"]
    again = command("-c", code, *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "set()"
    for name in ("results.json", "results.csv", "results.md"):
        assert (tmp_path / "again" / name).read_bytes() == (
            evaluated / "evaluation" / name
        ).read_bytes()
    drawn = {path.name for path in (tmp_path / "again" / "figures").iterdir()}
    names = (f"{kind}_{n}" for kind in ("roc", "scores") for n in ("diffguard", "fusion"))
    assert drawn == {"at_a_glance.png", *(f"{name}.png" for name in names)}
    assert any((tmp_path / "again" / "tensorboard" / "evaluation").iterdir())
    report = (tmp_path / "again" / "report.html").read_text()
    assert "No images are shown" in report
    assert f"--scores {evaluated / 'evaluation'} --output" in report


def test_runs_of_the_same_data_are_joined_and_their_scores_fused(evaluated, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(evaluated / "evaluation", other)
    (other / "run.json").unlink()  # it contains the digests of the edited files
    text = (other / "scores.csv").read_text()
    (other / "scores.csv").write_text(text.replace('"knn"', '"ours"', 1))
    held = (other / "calibration.csv").read_text()
    (other / "calibration.csv").write_text(held.replace('"knn"', '"ours"', 1))
    words = ["--scores", evaluated / "evaluation", other, "--fuse.both", "[diffguard, ours]"]
    assert evaluate.main([*map(str, words), "--output", str(tmp_path / "joined")]) == 0
    results = json.loads((tmp_path / "joined" / "results.json").read_text())
    rows = {(row["score"], row["dataset"]): row for row in results["rows"]}
    assert rows["ours", "blank"] == {**rows["knn", "blank"], "score": "ours"}
    fusions = {key: row["auroc"] for key, row in rows.items() if key[0] == "fusion/knn"}
    assert {("fusion/both", s): v for (_, s), v in fusions.items()} == {
        key: row["auroc"] for key, row in rows.items() if key[0] == "fusion/both"
    }
    assert [run["name"] for run in results["settings"]["runs"]] == ["evaluation", "other"]
    assert "fusion/both − ours" in capsys.readouterr().out
    joint = results["settings"]["command"]
    assert " --scores " in joint
    elements = read_page((tmp_path / "joined" / "report.html").read_text(encoding="utf-8"))
    commands = select(elements, "pre")[0].text.splitlines()
    assert commands == [results["settings"]["runs"][0]["settings"]["command"], joint]


def _pictures(folder, head):
    """Sources of the pictures of one heading in the report of an evaluation."""
    elements = read_page((folder / "report.html").read_text(encoding="utf-8"))
    pictures = [(e.attributes["alt"], e.attributes["src"]) for e in select(elements, "img")]
    return [source for alt, source in pictures if alt.startswith(f"{head} of ")]


def test_a_repeated_command_scores_only_missing_rows(
    evaluated, ckpt, capsys
):
    copy = ckpt.parent / "evaluation"
    shutil.copytree(evaluated / "evaluation", copy)
    whole = (copy / "scores.csv").read_bytes()
    table = copy / "scores" / "rank-0.csv"
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    done, thumbnails = read_done(copy), copy / "scores" / "thumbnails-0.jsonl"
    lines = thumbnails.read_text().splitlines(keepends=True)
    records = zip(map(json.loads, lines), lines, strict=True)
    thumbnails.write_text("".join(t for r, t in records if (r["dataset"], r["index"]) in done))
    assert start(ckpt, "--panels", 0) == 0
    assert (copy / "scores.csv").read_bytes() == whole
    # The pictures that were kept are those that the panels show, and none is lost.
    guided = [_pictures(folder, "guided") for folder in (copy, evaluated / "evaluation")]
    assert guided[0] == guided[1]
    assert len(guided[0]) == len(ScoreTable.read(copy / "scores.csv"))
    capsys.readouterr()
    assert start(ckpt, "--panels", 0) == 0
    assert (copy / "scores.csv").read_bytes() == whole
    assert "fusion" in capsys.readouterr().out
    # The work of all sessions counts, here with rows that were lost and scored again.
    costs = json.loads((copy / "results.json").read_text())["cost"]["scores"]
    assert 9 < next(row["diffusion_passes"] for row in costs if row["score"] == "fusion") < 18


def test_a_folder_of_an_earlier_version_is_continued(ckpt, evaluated, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(scoring_folder, "to_dict", lambda settings: version_2(to_dict(settings)))
        patch.setattr(scoring_folder, "_upgraded", lambda manifest, _classes: manifest)
        assert start(ckpt, "--panels", 0) == 0
    folder = ckpt.parent / "evaluation"
    manifest = (folder / "manifest.json").read_bytes()
    assert b'"kind": "classifier_free"' in manifest
    table = folder / "scores" / "rank-0.csv"
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    assert start(ckpt, "--panels", 0) == 0
    whole = (evaluated / "evaluation" / "scores.csv").read_bytes()
    assert (folder / "scores.csv").read_bytes() == whole
    assert (folder / "manifest.json").read_bytes() == manifest
    with pytest.raises(UserError, match=r"settings\.classifier_free\.scale was .*, is 2\.0;"):
        start(ckpt, "--detector.classifier_free.scale", 2)


def test_a_table_of_another_run_is_refused(evaluated, ckpt):
    shutil.copytree(evaluated / "evaluation", ckpt.parent / "evaluation")
    with pytest.raises(UserError, match=r"batch_size was 8, is 16"):
        start(ckpt, "--data.batch_size", "16")


def test_training_images_are_not_needed(evaluated, ckpt, data_root, tmp_path):
    for name in ("test", "near", "far"):
        shutil.copytree(data_root / name, tmp_path / "data" / name)
    assert start(ckpt, "--data.root", tmp_path / "data", "--panels", 0) == 0
    tables = [folder / "evaluation" / "scores.csv" for folder in (evaluated, ckpt.parent)]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_the_command_line_can_add_an_ood_set(ckpt, tmp_path):
    write_images(tmp_path / "mine", 5, "noise", 3)
    assert start(ckpt, "--data.ood.far.mine", tmp_path / "mine", "--panels", "all") == 0
    table = ScoreTable.read(tmp_path / "evaluation" / "scores.csv")
    assert table.dataset_names == ("shapes", "blank", "noise", "mine")
    page = read_page((tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8"))
    captions = [e.text for e in select(page, "figcaption")]
    assert captions.count("guided") == captions.count("input") == len(table)


def test_changed_detector_settings_are_calibrated_again(ckpt, capsys):
    # The checkpoint contains the features of the training images.
    changes = ["--detector.classifier_free.scale", 0, "--data.id.train", "null"]
    assert start(ckpt, *changes, "--panels", 0) == 0
    assert "calibrating again" in capsys.readouterr().err
    table = ScoreTable.read(ckpt.parent / "evaluation" / "scores.csv")
    assert set(table.network_passes.tolist()) == {6}


def test_settings_that_only_combine_scores_need_no_calibration_images(ckpt, capsys):
    changes = {
        "data.id.train": "null",
        "data.id.validation": "null",
        "detector.distance": "[logits_l1, l2]",
        "detector.combine": "tandem",
        "detector.baselines": "[msp]",
        "detector.fused": "[msp]",
    }
    words = [word for key, value in changes.items() for word in (f"--{key}", value)]
    assert start(ckpt, *words, "--panels", 0) == 0
    assert "calibrating" not in capsys.readouterr().err
    folder = ckpt.parent / "evaluation"
    assert not (folder / "calibration").exists()
    scores = ScoreTable.read(folder / "scores.csv").scores
    assert "knn" not in scores
    saved = Detector.load(ckpt).calibration.scores
    settings = DetectorSettings(
        distances=["logits_l1", "l2"],
        distance=["logits_l1", "l2"],
        combine="tandem",
        baselines=["msp"],
        fused=["msp"],
    )
    plain = {name: saved[name] for name in ("diffguard/logits_l1", "diffguard/l2", "msp")}
    derived = Calibration.fit(plain, settings.fusion_rule()).derive(scores)
    for name in ("diffguard", "fusion", "fusion/msp"):
        np.testing.assert_allclose(scores[name], derived[name], rtol=1e-12)


def test_an_interrupted_calibration_resumes_after_a_check(
    ckpt, tmp_path, monkeypatch, capsys
):
    plain, writes = ScoreWriter.write, []

    def dying(writer, rows):
        writes.append(writer)
        if len(writes) == 2:
            raise UserError("interrupted")
        plain(writer, rows)

    monkeypatch.setattr(ScoreWriter, "write", dying)
    arguments = ["--detector.classifier_free.scale", 0, "--panels", 0]
    with pytest.raises(UserError, match="interrupted"):
        start(ckpt, *arguments)
    calibration = ckpt.parent / "evaluation" / "calibration"
    assert not (calibration.parent / "manifest.json").exists()
    assert start(ckpt, *arguments) == 0
    tables = sorted((calibration / "scores").iterdir())
    assert [table.name for table in tables] == ["rank-0.2.csv", "rank-0.csv"]
    assert sum(len(table.read_text().splitlines()) - 1 for table in tables) == 24
    # Other settings are refused before the calibration, and nothing is removed.
    before = {path: path.read_bytes() for path in calibration.rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(UserError, match=r"settings\.classifier_free\.scale was 0\.0, is 2\.0"):
        start(ckpt, "--detector.classifier_free.scale", 2)
    assert "calibrating" not in capsys.readouterr().err
    assert {p: p.read_bytes() for p in calibration.rglob("*") if p.is_file()} == before
    assert not calibration.with_name("calibration-2").exists()


def test_decision_settings_may_change_and_tensorboard_follows_the_output(
    evaluated, tmp_path, monkeypatch
):
    wandb_runs = fake_wandb.install(monkeypatch)
    shutil.copytree(evaluated / "evaluation", tmp_path / "out")
    ckpt = shutil.copy(evaluated / "detector.ckpt", tmp_path / "detector.ckpt")
    arguments = ["--output", tmp_path / "out", "--panels", 0]
    table = (tmp_path / "out" / "scores.csv").read_bytes()
    decides = ["--detector.accept", 0.9, "--detector.decision", "msp"]
    assert start(ckpt, *arguments, *decides, "--trainer.loggers", "[tensorboard, csv, wandb]") == 0
    assert (tmp_path / "out" / "scores.csv").read_bytes() == table
    (log,) = (tmp_path / "out" / "csv" / "evaluation").rglob("metrics.csv")
    assert "near/auroc/fusion" in log.read_text()
    names = {"near/auroc/fusion", "detector/at_a_glance", "detector/summary"}
    assert names | {"scores_fusion/blank", "pr_fusion/blank"} <= set(wandb_runs[0].values)
    assert list((tmp_path / "out" / "tensorboard" / "evaluation").glob("events*"))
    assert not (tmp_path / "tensorboard").exists()
