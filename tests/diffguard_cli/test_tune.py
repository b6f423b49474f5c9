"""Choosing a detector's settings on validation sets."""

import numpy as np
import pytest
import torch
import yaml

from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.scores.baseline_table import BASELINES
from diffguard.scores.calibration import Calibration
from diffguard.scores.cross_fitting import cross_fitted
from diffguard.scores.hyper_parameters import HyperParameter
from diffguard.scores.logit_baselines import PosteriorDivergence, fit_klm
from diffguard.scores.reference import Reference
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.fusion import FusionSettings
from diffguard.settings.plain import from_dict
from diffguard_cli import tune
from diffguard_cli.baseline_search import HYPER_PARAMETERS, search
from diffguard_cli.one_standard_error import Candidate, Ranking
from diffguard_cli.rankings import (
    mean_auroc,
    pairs_of_kinds,
    rank_comparators,
    rank_distances,
    rank_fused,
)
from diffguard_cli.validation import score_validation, validation_data
from tests.helpers.read_sets import recorded_sets
from tests.helpers.validated import with_ood_validation

KEYS = ("distance", "fused", "comparator", "knn_k")


@pytest.fixture
def ckpt(run_folder, tmp_path):
    """The tiny detector, with an OOD validation set."""
    return str(with_ood_validation(run_folder / "detector.ckpt", tmp_path))


def test_the_grid_is_scored_and_the_choice_is_a_config(
    ckpt, data_root, tmp_path, capsys, monkeypatch
):
    sets = recorded_sets(monkeypatch, data_root)
    words = [ckpt, "--depths", "0.5", "--scales", "1.5", "3", "--output", str(tmp_path / "t.yaml")]
    assert tune.main([*words, "--steps", "2", "--limit", "4", "--device", "cpu"]) == 0
    assert {"choice"} <= sets <= {"choice", "shapes_train", "shapes_validation"}  # no test image
    lines = capsys.readouterr().out.splitlines()
    header = next(n for n, line in enumerate(lines) if line.startswith("| steps | depth | scale"))
    rows = [line.split(" | ") for line in lines[header + 2 : header + 4]]
    assert [row[:3] for row in rows] == [["| 2", "0.5", "1.5"], ["| 2", "0.5", "3"]]
    chosen = [line.split(" | ") for line in lines if line.endswith("| yes |")]
    choices = lines[lines.index(next(line for line in lines if "passes per ID image" in line)) + 2]
    assert float(choices.split(" | ")[5]) == pytest.approx(max(float(row[5]) for row in rows))
    text = (tmp_path / "t.yaml").read_text()
    assert text.splitlines() == lines[-len(text.splitlines()) :]
    choice = yaml.safe_load(text)["detector"]
    assert choice["sampler"] == {"steps": 2}
    assert f"knn_k {choice['knn_k']}" == chosen[0][1]
    named = [", ".join(choice[key]) for key in ("distance", "fused", "comparator")]
    assert [chosen[1][3], *(row[0].removeprefix("| ") for row in chosen[2:4])] == named
    assert chosen[1][2] == f"{choice['classifier_free']['scale']:g}"
    assert len(chosen) == 5
    assert "fusion" not in choice
    content = read_checkpoint(ckpt)
    settings = {**content["settings"], **{k: v for k, v in choice.items() if k in KEYS}}
    assert from_dict(settings).comparator == choice["comparator"]


def test_the_band_of_a_cascade_is_chosen_from_scores_without_skipped_images(ckpt, capsys):
    content = torch.load(ckpt, weights_only=True)
    content["settings"]["fusion"] = {"rule": "cascade"}
    torch.save(content, ckpt)
    words = [ckpt, "--depths", "0.5", "--scales", "1.5", "--steps", "2", "--limit", "4"]
    outputs = []
    for extra in ([], ["--rule", "mean"]):
        assert tune.main([*words, "--device", "cpu", *extra]) == 0
        outputs.append(capsys.readouterr().out)
    lines = outputs[0].splitlines()
    row = next(line for line in lines if line.startswith("| 2 | 0.5 | 1.5 |"))
    passes = float(
        next(line for line in lines if line.endswith("| yes |") and row[:17] in line).split(" | ")[
            4
        ]
    )
    assert 2 <= passes <= int(row.split(" | ")[3])
    assert any(line.startswith(f"| none (rule mean) | {passes:.1f} |") for line in lines)
    choice = yaml.safe_load("\n".join(lines[lines.index("detector:") :]))["detector"]
    fusion = FusionSettings(**choice["fusion"])
    chosen = [line for line in lines if line.endswith("| yes |")][-1]
    assert chosen.startswith(f"| {fusion.band if fusion.is_cascade else 'none (rule mean)'} |")
    assert "fusion:" not in outputs[1]


def test_values_of_a_baseline_are_ranked_by_its_score(ckpt):
    content = read_checkpoint(ckpt)
    detector = Detector.from_checkpoint(content)
    data = validation_data(content["config"]["data"], 4)
    (knn,) = search(detector, data, ["msp", "knn"])
    assert (knn.baseline, knn.key) == ("knn", "knn_k")
    counts = [1, 5, 10, 20, 50, 100, 200]
    values = sorted(candidate.choice for candidate in knn.ranking.candidates)
    assert values == [k for k in counts if k <= len(detector.reference.features)]
    # The same score as in an evaluation.
    table, _ = score_validation(detector, data)
    k = detector.settings.knn_k
    parameter = HyperParameter("knn_k", 50, 1, None, lambda *_: [k])
    again = search(detector, data, ["knn"], {"knn": [parameter]})
    assert again[0].ranking.best.auroc == pytest.approx(mean_auroc(table, "knn"))


def test_baselines_that_are_fitted_to_the_id_images_are_ranked_by_cross_fitted_scores(ckpt):
    content = read_checkpoint(ckpt)
    content["settings"] |= {"baselines": ["klm"], "fused": ["klm"], "comparator": None}
    content["fits"] = {"klm": {"posteriors": torch.eye(3, dtype=torch.float64)}}
    content["calibration"]["scores"]["klm"] = content["calibration"]["scores"]["msp"]
    detector = Detector.from_checkpoint(content)
    data = validation_data(content["config"]["data"], 6)
    table, _ = score_validation(detector, data)
    batch = next(iter(data.stream_loader(data.stream("validation"))))
    logits = detector.models.classify(batch["image"][:6], 8).logits
    expected = cross_fitted(logits, batch["label"][:6], fit_klm, PosteriorDivergence)
    (ident, ood) = table.values()
    np.testing.assert_allclose(ident["klm"], expected, rtol=1e-4)
    assert (ood["klm"] > 100).any()  # those of the fit in the checkpoint


def test_hyper_parameters_alone_need_no_diffusion_model(
    ckpt, data_root, tmp_path, capsys, monkeypatch
):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the diffusion model is used")

    sets = recorded_sets(monkeypatch, data_root)
    monkeypatch.setattr(Detector, "stream", refuse)
    assert "react" not in read_checkpoint(ckpt)["settings"]["baselines"]
    words = [ckpt, "--baselines", "react", "odin", "--limit", "4", "--device", "cpu"]
    assert tune.main([*words, "--output", str(tmp_path / "t.yaml")]) == 0
    assert {"choice"} <= sets <= {"choice", "shapes_train", "shapes_validation"}  # no test image
    lines = capsys.readouterr().out.splitlines()
    chosen = dict(line.split(" | ")[1].split() for line in lines if line.endswith("| yes |"))
    choice = yaml.safe_load((tmp_path / "t.yaml").read_text())
    assert choice == {"detector": {key: float(value) for key, value in chosen.items()}}
    assert set(chosen) == {"react_percentile", "odin_temperature", "odin_step"}


def test_a_baseline_without_hyper_parameters_is_not_searched(ckpt):
    for name in ("msp", "mps"):
        with pytest.raises(UserError, match=f"--baselines {name} .*expected some of gen, knn, vim"):
            tune.main([ckpt, "--baselines", name])


def test_options_of_the_grid_are_refused_with_baselines(ckpt):
    for option in (["--steps", "3"], ["--depths", "0.5"], ["--scales", "2"], ["--rule", "cascade"]):
        with pytest.raises(UserError, match=f"{option[0]} has no effect with --baselines"):
            tune.main([ckpt, "--baselines", "knn", *option])


def test_the_values_of_knn_k_count_all_training_images_and_the_largest_wins_ties():
    (knn,) = HYPER_PARAMETERS["knn"]
    reference = Reference(torch.zeros(20, 2), torch.zeros(20).long(), share=0.3)
    values = knn.values(reference, 3)
    assert [reference.neighbors(value) for value in values] == [1, 5, 10, 20]
    assert max(values) <= reference.training_images
    level = [Candidate(value, (knn.cost(value),), 0.9, 0.1) for value in values]
    assert Ranking(level).best.choice == max(values)
    (vim,) = HYPER_PARAMETERS["vim"]
    assert vim.cost(8) < vim.cost(16)
    # GEN over all classes is the same for every number of classes that is not smaller.
    (gen,) = HYPER_PARAMETERS["gen"]
    assert [gen.values(reference, classes) for classes in (6, 100)] == [[6], [10, 50, 100]]


def test_a_choice_on_test_images_is_refused(ckpt):
    data = read_checkpoint(ckpt)["config"]["data"]
    with pytest.raises(UserError, match="nothing may be chosen on test data"):
        validation_data({**data, "ood_validation": {"choice": "folder:far"}}, limit=None)


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
        Candidate(list("a"), (1,), 0.97, 0.011),
        Candidate(list("bcd"), (3,), 0.98, 0.0),
        Candidate(list("e"), (1,), 0.96, 0.012),
    )
    assert Ranking([many, few, worse]).best is few
    assert Ranking([many, worse]).best is many
    assert Ranking([many, few, Candidate(list("f"), (1,), 0.975, 0.01)]).best.choice == ["f"]


def test_the_error_is_that_of_the_paired_difference():
    table = make_table({"msp": 2.0, "knn": 1.9, "vim": 0.5})
    ranking = rank_comparators(table, DetectorSettings(baselines=["msp", "knn", "vim"]))
    best, *others = ranking.candidates
    assert best.error == 0
    aurocs = [candidate.auroc for candidate in ranking.candidates]
    assert aurocs == sorted(aurocs, reverse=True)
    # The scores share their noise: alone, an AUROC of 0.92 on 60 images varies by about 0.025.
    similar = next(candidate for candidate in others if candidate.choice in (["msp"], ["knn"]))
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
    assert rank_fused(table, settings).best.choice == ["knn"]
    assert set(rank_comparators(table, settings).best.choice) == {"msp", "knn"}


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
        candidate = next(c for c in ranking.candidates if c.choice == names)
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


def test_hyper_parameters_of_a_baseline_that_scores_images_are_searched_in_order(ckpt):
    content = read_checkpoint(ckpt)
    content["settings"]["baselines"] = ["msp", "knn", "odin"]
    scores = content["calibration"]["scores"]
    scores["odin"] = scores["msp"].clone()
    data = validation_data(content["config"]["data"], 2)
    searches = search(
        Detector.from_checkpoint(content), data, {"odin": BASELINES["odin"].parameters}
    )
    assert [result.key for result in searches] == ["odin_temperature", "odin_step"]
    steps = {candidate.choice for candidate in searches[1].ranking.candidates}
    assert steps == {0.0, 0.0014, 0.0028}
