"""Choosing a detector's settings on validation sets."""

import numpy as np
import pytest
import torch
import yaml

from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.scores.calibration import Calibration
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.plain import from_dict
from diffguard_cli import tune
from diffguard_cli.baseline_search import HyperParameter, best_values, search
from diffguard_cli.rankings import (
    Candidate,
    Ranking,
    mean_auroc,
    pairs_of_kinds,
    rank_comparators,
    rank_distances,
    rank_fused,
)
from diffguard_cli.validation import score_validation, validation_data

KEYS = ("distance", "fused", "comparator", "knn_k")


@pytest.fixture
def ckpt(run_folder, tmp_path):
    """The tiny detector, with an OOD validation set."""
    content = read_checkpoint(run_folder / "detector.ckpt")
    content["config"]["data"]["ood_validation"] = {"noise": "folder:far"}
    torch.save(content, tmp_path / "detector.ckpt")
    return str(tmp_path / "detector.ckpt")


def test_the_grid_is_scored_and_the_choice_is_a_config(ckpt, tmp_path, capsys):
    words = [ckpt, "--depths", "0.5", "--scales", "1.5", "3", "--output", str(tmp_path / "t.yaml")]
    assert tune.main([*words, "--steps", "2", "--limit", "4", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(n for n, line in enumerate(lines) if line.startswith("| steps | depth | scale"))
    rows = [line.split(" | ") for line in lines[header + 2 : header + 4]]
    assert [row[:3] for row in rows] == [["| 2", "0.5", "1.5"], ["| 2", "0.5", "3"]]
    chosen = [line.split(" | ") for line in lines if line.endswith("| yes |")]
    assert float(chosen[1][1]) == pytest.approx(max(float(row[5]) for row in rows))
    text = (tmp_path / "t.yaml").read_text()
    assert text.splitlines() == lines[-len(text.splitlines()) :]
    choice = yaml.safe_load(text)["detector"]
    assert choice["sampler"] == {"steps": 2}
    assert f"knn_k {choice['knn_k']}" == chosen[0][1]
    named = [", ".join(choice[key]) for key in ("distance", "fused", "comparator")]
    assert [row[0].removeprefix("| ") for row in chosen[1:]] == named
    content = read_checkpoint(ckpt)
    settings = {**content["settings"], **{k: v for k, v in choice.items() if k in KEYS}}
    assert from_dict(settings).comparator == choice["comparator"]


def test_a_baseline_gets_the_value_with_the_highest_auroc(ckpt):
    content = read_checkpoint(ckpt)
    detector = Detector.from_checkpoint(content)
    data = validation_data(content["config"]["data"], 4)
    trials = search(detector, data)
    assert [trial.key for trial in trials] == ["knn_k"] * len(trials)
    counts = [1, 5, 10, 20, 50, 100, 200]
    assert [t.value for t in trials] == [k for k in counts if k <= len(detector.reference.features)]
    assert best_values(trials)["knn_k"] == max(trials, key=lambda trial: trial.auroc).value
    # The same score as in an evaluation.
    table, _ = score_validation(detector, data)
    k = detector.settings.knn_k
    again = search(detector, data, {"knn": HyperParameter("knn_k", lambda _: [k])})
    assert again[0].auroc == pytest.approx(mean_auroc(table, "knn"))


def test_config_without_an_ood_validation_set_is_refused(run_folder):
    with pytest.raises(UserError, match="no OOD validation set"):
        tune.main([str(run_folder / "detector.ckpt")])


def test_pairs_have_a_distance_of_each_kind():
    settings = DetectorSettings(distances=["l2", "logits_l1"], unguided=["l1"])
    assert list(pairs_of_kinds(settings)) == [
        ["logits_l1", "l2"],
        ["logits_l1", "unguided/l1"],
    ]


def make_table(shifts, images=60):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, images))
    sets = zip(("id", "near", "far"), noise, strict=True)
    return {
        name: {
            score: row + (0 if name == "id" else shift) + 0.3 * rng.normal(size=images)
            for score, shift in shifts.items()
        }
        for name, row in sets
    }


def test_fewer_parts_win_within_one_standard_error():
    few, many, worse = (
        Candidate(list("a"), 0.97, 0.011),
        Candidate(list("bcd"), 0.98, 0.0),
        Candidate(list("e"), 0.96, 0.012),
    )
    assert Ranking([many, few, worse]).choice is few
    assert Ranking([many, worse]).choice is many
    assert Ranking([many, few, Candidate(list("f"), 0.975, 0.01)]).choice.names == ["f"]


def test_the_error_is_that_of_the_paired_difference():
    table = make_table({"msp": 2.0, "knn": 1.9, "vim": 0.5})
    ranking = rank_comparators(table, DetectorSettings(baselines=["msp", "knn", "vim"]))
    best, *others = ranking.candidates
    assert best.error == 0
    aurocs = [candidate.auroc for candidate in ranking.candidates]
    assert aurocs == sorted(aurocs, reverse=True)
    # The scores share their noise: alone, an AUROC of 0.92 on 60 images varies by about 0.025.
    similar = next(candidate for candidate in others if candidate.names in (["msp"], ["knn"]))
    assert 0 < similar.error < 0.015


def test_the_comparator_is_chosen_without_diffguard():
    # DiffGuard and MSP share an error; KNN is right where both are wrong.
    rng = np.random.default_rng(1)
    wrong, noise = rng.random((3, 200)) < 0.3, rng.normal(size=(3, 200))
    table = {
        name: {
            "diffguard/l2": noise[n] + (n > 0) * np.where(wrong[n], 0.0, 4.0),
            "msp": noise[n] + (n > 0) * np.where(wrong[n], 0.0, 6.0),
            "knn": noise[n] + (n > 0) * np.where(wrong[n], 4.0, 0.0),
        }
        for n, name in enumerate(("id", "near", "far"))
    }
    settings = DetectorSettings(
        distances=["l2"], distance=["l2"], baselines=["msp", "knn"], fused=["knn"]
    )
    assert rank_fused(table, settings).choice.names == ["knn"]
    assert set(rank_comparators(table, settings).choice.names) == {"msp", "knn"}


def test_a_ranking_gives_the_auroc_of_an_evaluation():
    table = make_table({"diffguard/logits_l1": 1.0, "diffguard/l2": 1.2, "msp": 1.0, "knn": 1.5})
    settings = DetectorSettings(
        distances=["logits_l1", "l2"],
        distance=["logits_l1", "l2"],
        baselines=["msp", "knn"],
        fused=["msp", "knn"],
        comparator=["knn"],
    )
    id_scores = {name: torch.from_numpy(values) for name, values in table["id"].items()}
    calibration = Calibration.fit(id_scores, settings.fusion_rule())
    derived = {name: calibration.derive(scores) for name, scores in table.items()}
    rankings = {
        "diffguard": (rank_distances(table, settings), settings.distance),
        "fusion": (rank_fused(table, settings), settings.fused),
        "fusion_baselines": (rank_comparators(table, settings), settings.comparator),
    }
    for score, (ranking, names) in rankings.items():
        candidate = next(c for c in ranking.candidates if c.names == names)
        assert candidate.auroc == pytest.approx(mean_auroc(derived, score))


def test_mean_auroc_is_averaged_over_the_ood_sets():
    table = {
        "id": {"score": np.array([0.0, 1.0])},
        "far": {"score": np.array([2.0, 3.0])},
        "same": {"score": np.array([0.0, 1.0])},
    }
    assert mean_auroc(table, "score") == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "nonsense"], "--device nonsense cannot be used: "),
        (["--depths", "0.5", "7"], "detector.inversion.depth must lie in .0, 1., got 7"),
        (["--steps", "0"], "detector.sampler.steps must be at least 1, got 0"),
        (["--scales", "1", "-1"], "scale must be at least 0"),
        (["--limit", "0"], "data.limit must be at least 1"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_scored(ckpt, capsys, words, message):
    with pytest.raises(UserError, match=message):
        tune.main([ckpt, *words])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "changes", [{"distances": ["l2"]}, {"baselines": [], "fused": [], "decision": "diffguard"}]
)
def test_a_detector_without_a_choice_is_refused(ckpt, changes):
    content = torch.load(ckpt, weights_only=True)
    content["settings"] |= changes
    torch.save(content, ckpt)
    with pytest.raises(UserError, match="the detector has nothing to choose from"):
        tune.main([ckpt])
