import csv
import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from diffguard.errors import UserError
from diffguard.report.bootstrap import Bootstrap, interval
from diffguard.report.comparison_notes import comparison_notes
from diffguard.report.logged import logged_metrics
from diffguard.report.metrics import METRICS
from diffguard.report.notes import make_notes
from diffguard.report.opponents import Opponents, comparisons
from diffguard.report.overview import main_scores, summary_markdown
from diffguard.report.results_files import write_results
from diffguard.report.summary import summarize
from tests.helpers.small_table import GROUPS, NAMES, make_run, make_table


@pytest.fixture(scope="module")
def results():
    return summarize(make_run(), draws=100)


def find(results, score, dataset):
    (row,) = (r for r in results["rows"] if (r["score"], r["dataset"]) == (score, dataset))
    return row


def scores_of(name, dataset):
    table = make_table()
    return table.scores[name][table.rows(dataset)]


def draws_of(ident, ood, name, metric="auroc"):
    """The bootstrap of a run with 100 draws and seed 3."""
    return Bootstrap(ident, len(ood[0]), draws=100, seed=3).draws(ood, name)[metric]


def test_rows_have_the_form_and_order_of_results_json(results):
    assert list(results["rows"][0]) == [
        "score", "dataset", "group", "auroc", "auroc_ci95", "aupr_in", "aupr_out",
        "fpr95_id_positive", "fpr95_id_positive_ci95", "fpr95_ood_positive",
        "fpr95_ood_positive_ci95", "ood_flagged", "auroc_right", "auroc_wrong", "n_id", "n_ood",
    ]  # fmt: skip
    columns = ["near_a", "far_b", "far_a", "near", "far"]
    keys = [(row["score"], row["dataset"]) for row in results["rows"]]
    assert keys == [(name, column) for name in NAMES for column in columns]
    assert [row["group"] for row in results["rows"][:5]] == ["near", "far", "far", "near", "far"]
    assert [row["n_ood"] for row in results["rows"][:5]] == [30, 19, 40, 30, 59]
    assert {row["n_id"] for row in results["rows"]} == {49}


def test_metrics_of_a_set_compare_it_with_the_id_set(results):
    ident, ood = scores_of("diffguard", "digits"), scores_of("diffguard", "far_a")
    row = find(results, "diffguard", "far_a")
    is_ood = np.r_[np.zeros(49), np.ones(40)]
    assert row["auroc"] == pytest.approx(roc_auc_score(is_ood, np.r_[ident, ood]), abs=1e-12)
    for metric in ("auroc", "fpr95_id_positive", "fpr95_ood_positive"):
        draws = draws_of([ident], [ood], "far_a", metric)
        assert row[f"{metric}_ci95"] == list(interval(draws[:, 0]))
    assert row["ood_flagged"] == (ood > 1.3).mean()
    right = np.arange(49) % 10 != 3
    for name, part in (("auroc_right", ident[right]), ("auroc_wrong", ident[~right])):
        is_ood = np.r_[np.zeros(len(part)), np.ones(40)]
        assert row[name] == pytest.approx(roc_auc_score(is_ood, np.r_[part, ood]), abs=1e-12)


def test_group_rows_are_unweighted_means_with_the_interval_of_the_mean(results):
    mean, parts = (
        find(results, "msp", "far"),
        [find(results, "msp", name) for name in ("far_a", "far_b")],
    )
    for metric in (*METRICS, "ood_flagged", "auroc_right", "auroc_wrong"):
        assert mean[metric] == pytest.approx(np.mean([part[metric] for part in parts]), abs=1e-15)
    for metric in ("auroc", "fpr95_ood_positive"):
        draws = [
            draws_of([scores_of("msp", "digits")], [scores_of("msp", name)], name, metric)
            for name in ("far_a", "far_b")
        ]
        ends = interval(np.mean(draws, axis=0)[:, 0])
        assert mean[f"{metric}_ci95"] == pytest.approx(ends, abs=1e-15)
    # With one set the mean is the set.
    near = find(results, "msp", "near") | {"dataset": "near_a"}
    assert near == find(results, "msp", "near_a")


def test_a_mean_over_small_and_large_sets_keeps_the_id_images_they_share(monkeypatch):
    # The far sets have 40 and 20 images: one alone would be small enough for exact draws.
    whole = summarize(make_run(), draws=1000)
    monkeypatch.setattr("diffguard.report.bootstrap.EXACT_ROWS", 80)
    monkeypatch.setattr("diffguard.report.bootstrap.GROUPS", 45)  # fewer than the ID images
    mixed = summarize(make_run(), draws=1000)
    for name in ("msp", "diffguard"):
        low, high = find(mixed, name, "far")["auroc_ci95"]
        first, last = find(whole, name, "far")["auroc_ci95"]
        assert high - low == pytest.approx(last - first, rel=0.12)


def test_comparisons_are_paired(results):
    assert [row["group"] for row in results["comparisons"]] == ["near", "far"]
    row = results["comparisons"][0]
    assert (row["score"], row["against"]) == ("fusion", "fusion_baselines")
    a, b = (find(results, name, "near")["auroc"] for name in ("fusion", "fusion_baselines"))
    assert row["difference"] == a - b
    pair = ("fusion", "fusion_baselines")
    draws = draws_of(
        *([scores_of(name, part) for name in pair] for part in ("digits", "near_a")), "near_a"
    )
    differences = draws[:, 0] - draws[:, 1]
    assert row["ci95"] == list(interval(differences))
    z = row["difference"] / differences.std(ddof=1)
    assert row["p_value"] == pytest.approx(2 * NormalDist().cdf(-abs(z)))
    assert row["holm"] <= min(1, 2 * row["p_value"])


def test_the_best_baseline_on_validation_is_compared_or_else_every_baseline():
    names = ("msp", "diffguard/l2")
    chosen = Opponents(names, {"msp": 0.7, "diffguard/l2": 0.6}, ("choice",))
    assert comparisons(NAMES, chosen)[1:] == [("diffguard", "msp"), ("fusion", "msp")]
    every = Opponents(names, reason="there is none")
    assert len(comparisons(NAMES, every)) == 5
    for opponents, label in ((chosen, "diffguard − msp"), (every, "diffguard − each baseline")):
        pairs = comparisons(NAMES, opponents)
        results = summarize(make_run(comparisons=pairs, opponents=opponents), draws=20)
        assert len(results["comparisons"]) == 2 * len(pairs)
        notes = make_notes(results)
        assert label in [name for name, _ in notes]
        assert ("Best baseline", opponents.describe()) in notes


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"precision": "32-true", "compile": False}, ""),
        ({"config": {"detector": {"compile": "auto"}}}, ", network not compiled (chosen by auto)"),
        ({"config": {"detector": {"compile": "auto"}}, "compile": True}, ", compiled network"),
        ({"config": {"auto_precision": "32-true"}}, ", float32 (chosen by auto)"),
        ({"config": {"auto_precision": "32-true"}, "precision": "bf16-mixed"}, ", bf16-mixed"),
        ({"config": {"auto_precision": "bf16-mixed"}, "precision": "32-true"}, ""),
    ],
)
def test_the_cost_line_states_what_was_accelerated_and_what_auto_left_out(results, settings, text):
    notes = dict(make_notes({**results, "settings": settings}))
    assert notes["Cost"] == f"12.5 images per second, 46.9 network passes per image{text}"


def test_comparisons_of_joined_runs_with_every_baseline_are_summed_up():
    every = Opponents(("msp", "knn"), reason="there is none")
    rows = [
        {"score": "diffguard (a)", "against": f"{name} (a)", "group": "near", "difference": 0.1 * k}
        | {"ci95": [0, 1], "holm": holm}
        for k, (name, holm) in enumerate((("msp", 0.9), ("knn", 0.01)))
    ]
    notes = comparison_notes({"comparisons": rows, "baselines": every.as_plain()})
    assert notes[1:] == [
        (
            "diffguard (a) − each baseline",
            "near AUROC +0.00 (msp (a)) to +10.00 (knn (a)); significantly above 1 and below 0 of "
            "2 after Holm's correction",
        )
    ]


def test_the_baseline_is_not_chosen_on_the_test_sets():
    # On the test sets `diffguard/l2` is better, on validation `msp`.
    opponents = Opponents(("msp", "diffguard/l2"), {"msp": 0.7, "diffguard/l2": 0.6}, ("choice",))
    results = summarize(make_run(opponents=opponents), draws=20)
    assert find(results, "msp", "far")["auroc"] < find(results, "diffguard/l2", "far")["auroc"]
    assert results["baselines"]["best"] == main_scores(results)[0] == "msp"


@pytest.mark.parametrize(
    ("opponents", "reason", "advice"),
    [
        (None, "the run has no record of OOD validation", "evaluate with --ckpt and"),
        (Opponents(("msp",), reason="there are no sets"), "there are no sets", "provide"),
    ],
)
def test_without_a_choice_on_validation_no_baseline_is_a_main_score(opponents, reason, advice):
    results = summarize(make_run(opponents=opponents), draws=20)
    assert (results["baselines"] is None) == (opponents is None)
    assert main_scores(results) == ["diffguard", "fusion_baselines", "fusion"]
    text = summary_markdown(results)
    assert "| msp |" not in text
    assert f"Best baseline: not chosen, because {reason}. " in text
    assert f"To choose one, {advice} OOD validation sets (data.ood_validation)." in text


def test_summary_has_accuracy_cost_and_errors(results):
    # Of the 49 readable digits those at 3, 13, 23, 33, 43 are predicted 0 instead of 3.
    ident = {name: results["id"][name] for name in ("dataset", "n", "accuracy", "accept")}
    assert ident == {"dataset": "digits", "n": 49, "accuracy": 44 / 49, "accept": 0.9}
    passes = (49 * 60 + 4 * 40 + 30 * 40 + 40 * 40 + 19 * 40) / 142
    assert results["cost"] == {
        "images_per_second": 12.5,
        "network_passes_per_image": pytest.approx(passes),
    }
    assert results["errors"] == {"far_b": 1, "digits": 1, "far_a": 0, "near_a": 0}
    assert results["left_out"] == [
        {"dataset": "digits", "index": 49, "path": "49.png", "error": "truncated"},
        {"dataset": "far_b", "index": 19, "path": "144.png", "error": "too large"},
    ]
    assert results["settings"] == {"seed": 7}


def test_id_images_are_split_by_the_threshold_and_the_classifier(results):
    scores, right = scores_of("diffguard", "digits"), np.arange(49) % 10 != 3
    entry = results["id"]["scores"][NAMES.index("diffguard")]
    accepted = scores <= 1.3
    assert entry["score"] == "diffguard"
    assert entry["threshold"] == 1.3
    assert entry["accepted"] == accepted.mean()
    assert entry["accepted_right"] == accepted[right].mean()
    assert entry["accepted_wrong"] == accepted[~right].mean()
    assert entry["accuracy_accepted"] == right[accepted].mean()
    assert entry["auroc_errors"] == pytest.approx(roc_auc_score(~right, scores), abs=1e-12)
    # The scores have ties: the mean over random orders of equal ones.
    rng, orders = np.random.default_rng(0), []
    for _ in range(300):
        order = np.lexsort((rng.random(49), scores))
        orders.append(((~right)[order].cumsum() / np.arange(1, 50)).mean())
    assert entry["aurc"] == pytest.approx(np.mean(orders), abs=0.003)


def test_values_that_do_not_exist_are_empty(tmp_path):
    table = make_table()
    perfect = replace(table, prediction=np.where(table.prediction < 0, -1, table.label))
    run = make_run(table=perfect, thresholds=None)
    results = summarize(run, draws=10)
    assert results["id"]["accept"] is None
    entry = results["id"]["scores"][0]
    assert [name for name, value in entry.items() if value is None] == [
        "threshold", "accepted", "accepted_right", "accepted_wrong", "accuracy_accepted",
        "auroc_errors",
    ]  # fmt: skip
    assert entry["aurc"] == 0
    row = results["rows"][0]
    assert (row["ood_flagged"], row["auroc_wrong"], row["auroc_right"]) == (
        None,
        None,
        row["auroc"],
    )
    write_results(tmp_path, results)
    with (tmp_path / "results.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["ood_flagged"] == ""
    assert "Flagged" not in (tmp_path / "results.md").read_text().split("Rates in %")[0]
    assert not any(value is None for value in logged_metrics(results).values())


def run_of(*names, **changes):
    table = make_table()
    table = replace(table, scores={name: table.scores[name] for name in names})
    return make_run(table=table, **{"comparisons": [], **changes})


def test_scores_do_not_change_each_other(results):
    few = summarize(run_of("fusion", "msp"), draws=100)
    assert few["rows"][0] == find(results, "fusion", "near_a")
    assert {row["score"] for row in few["rows"]} == {"fusion", "msp"}
    other = summarize(run_of("fusion", seed=4), draws=100)
    assert other["rows"][0]["auroc_ci95"] != few["rows"][0]["auroc_ci95"]
    assert other["rows"][0]["auroc"] == few["rows"][0]["auroc"]


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ({"digits": "id"}, {}, "one ID set and at least one OOD set, got 1 and 0"),
        ({"near_a": "near", "far_a": "far"}, {}, "got 0 and 2"),
        ({"digits": "id", "near_a": "id", "far_a": "far"}, {}, "got 2 and 1"),
        ({"digits": "id", "far_a": "middle"}, {}, "'far_a' has the group 'middle'"),
        ({"digits": "id", "near": "near"}, {}, "not itself called near or far"),
        ({"digits": "id", "svhn": "far"}, {}, "no scored image of the set 'svhn'"),
        (GROUPS, {"comparisons": [("fusion", "x")]}, "cannot compare the score 'x'"),
    ],
)
def test_mistakes_are_named(groups, options, message):
    with pytest.raises(UserError, match=message):
        summarize(make_run(groups=groups, **options))


def test_files_hold_the_same_results(results, tmp_path):
    write_results(tmp_path / "evaluation", results)
    folder = tmp_path / "evaluation"
    assert sorted(p.name for p in folder.iterdir()) == ["results.csv", "results.json", "results.md"]
    assert json.loads((folder / "results.json").read_text()) == results
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["rows"])
    for line, row in zip(rows, results["rows"], strict=True):
        for metric in ("auroc", "fpr95_id_positive"):
            ends = [float(line[f"{metric}_low"]), float(line[f"{metric}_high"])]
            assert ends == row[f"{metric}_ci95"]
        assert {name: float(line[name]) for name in METRICS} == {n: row[n] for n in METRICS}
        assert (line["score"], line["dataset"]) == (row["score"], row["dataset"])
    markdown = (folder / "results.md").read_text()
    # The ID table, the metrics, and the flagged share.
    assert markdown.count("\n| fusion_baselines |") == 1 + len(METRICS) + 1
    assert "- Left out: 2 unreadable images (far_b 1, digits 1)" in markdown
