"""`evaluate.main` with several seeds or checkpoints."""

import json
import shutil
from pathlib import Path

import pytest

import evaluate
from diffguard.errors import UserError
from diffguard.report import publish
from diffguard.score_table.table import ScoreTable
from diffguard_cli import evaluation, evaluation_sets
from diffguard_cli.evaluation_seeds import planned_runs
from tests.helpers.read_sets import recorded_sets


def test_each_seed_resumes_in_its_folder(ckpt, data_root, capsys, monkeypatch):
    words = ["--ckpt", str(ckpt), "--seeds", "0", "5", "--panels", "0", "--data.limit", "4"]
    words += ["--detector.methods", "[diffguard, minority]"]
    monkeypatch.setattr(publish, "_figures", lambda *_: [])  # they take most of the time
    score, seeds = evaluation_sets.score_sets, []
    recalibrate, seen = evaluation_sets.recalibrated, set()

    def watched(*arguments):
        with monkeypatch.context() as patch:
            sets = recorded_sets(patch, data_root)
            scoring = recalibrate(*arguments)
            seen.update(sets)
        return scoring

    def crash(content, arguments):
        seeds.append(arguments.seed)
        if len(seeds) == 2:
            raise UserError("out of disk space")
        return score(content, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_sets, "score_sets", crash)
        patch.setattr(evaluation_sets, "recalibrated", watched)
        with pytest.raises(UserError, match="out of disk space"):
            evaluate.main(words)
    folder = ckpt.parent / "seeds"
    sessions = (folder / "seed0" / "timing.jsonl").read_text()
    assert seeds == [0, 5]
    # The calibration with other settings sees no test image.
    assert seen == {"shapes_validation"}
    assert not (folder / "seed5" / "scores.csv").exists()
    assert evaluate.main(words) == 0
    assert (folder / "seed0" / "timing.jsonl").read_text() == sessions  # nothing is scored again
    tables = [ScoreTable.read(folder / name / "scores.csv").scores for name in ("seed0", "seed5")]
    assert (tables[0]["diffguard/l2"] == tables[1]["diffguard/l2"]).all()
    assert (tables[0]["minority"] != tables[1]["minority"]).all()
    manifest = json.loads((folder / "seed5" / "manifest.json").read_text())
    assert manifest["seed"] == 5
    assert (folder / "seeds.md").read_text().strip() in capsys.readouterr().out


def test_seeds_that_change_no_score_are_refused(ckpt):
    with pytest.raises(UserError, match=r"no method of this detector draws noise: train with"):
        evaluate.main(["--ckpt", str(ckpt), "--seeds", "0", "1"])
    assert not (ckpt.parent / "seeds").exists()
    with pytest.raises(UserError, match="--seeds has no effect here"):
        evaluate.main(["--ckpt", str(ckpt), "--seeds", "0", "1", "--images", "x.png"])


def test_checkpoints_of_several_trainings_are_evaluated_and_compared(
    ckpt, tmp_path, capsys, monkeypatch
):
    ckpts = [tmp_path / name / "detector.ckpt" for name in ("a", "b")]
    for number, path in enumerate(ckpts):
        path.parent.mkdir()
        shutil.copy(ckpt, path)
        row = {"score": "msp", "dataset": "near", "auroc": 0.5 + 0.1 * number}
        row["fpr95_id_positive"] = 0.9
        content = {"rows": [row], "id": {"accuracy": 0.5}, "comparisons": []}
        path.with_name("results.json").write_text(json.dumps(content))

    def evaluate_one(_content, arguments):
        output = Path(arguments.output)
        output.mkdir(parents=True)
        shutil.copy(Path(arguments.ckpt).with_name("results.json"), output)

    monkeypatch.setattr(evaluation, "_evaluate", evaluate_one)
    words = ["--ckpt", *map(str, ckpts)]
    assert evaluate.main(words) == 0
    assert "| msp | 55.0 ± 7.1 |" in capsys.readouterr().out
    assert evaluate.main([*words, "--output", str(tmp_path / "all")]) == 0
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        *("a", "b"),
        *("seeds.md", "seeds.json"),
    }


@pytest.mark.parametrize(
    ("names", "seeds", "message"),
    [
        (["a", "b"], [1, 2], "give one --ckpt, or no --seeds"),
        (["a"], [1], "two different seeds or more"),
        (["a"], [1, 1, 2], "two different seeds or more"),
        (["a"], [-1, 2], "--seeds must be 0 to"),
        (["a", "a"], [], "a checkpoint twice"),
        (["a", "c"], [], "two checkpoints in one folder"),
        (["a", "nowhere/d"], [], "nowhere/d does not exist"),
    ],
)
def test_a_wrong_choice_of_runs_is_refused(tmp_path, monkeypatch, names, seeds, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "c", "b"):
        Path(name).touch()
    with pytest.raises(UserError, match=message):
        planned_runs(names, seeds)


def test_a_shipped_detector_is_a_checkpoint(tmp_path, ckpt):
    labels = [run.label for run in planned_runs([str(ckpt), "demo"], [])]
    assert labels == [tmp_path.name, "demo"]


def test_the_folders_of_runs_have_their_names():
    runs = planned_runs(["r/detector.ckpt"], [3, 4])
    assert [str(run.folder(None)) for run in runs] == ["r/seeds/seed3", "r/seeds/seed4"]
    assert [str(run.folder("o")) for run in runs] == ["o/seed3", "o/seed4"]
