"""Results of several seeds."""

import json
from dataclasses import replace

import pytest
from scipy.stats import ttest_rel

import evaluate
from diffguard.errors import UserError
from diffguard.report.holm import holm
from diffguard.report.opponents import Opponents
from diffguard.report.seeds import paired_tests, read_seeds

AUROC = {
    ("diffguard", "near"): [0.70, 0.69, 0.715],
    ("fusion", "near"): [0.82, 0.80, 0.83],
    ("fusion_baselines", "near"): [0.80, 0.79, 0.81],
    ("knn", "near"): [0.78, 0.80, 0.79],
    ("msp", "near"): [0.83, 0.84, 0.82],
    ("diffguard", "far"): [0.90, 0.91, 0.92],
    ("fusion", "far"): [0.91, 0.94, 0.92],
    ("fusion_baselines", "far"): [0.90, 0.91, 0.92],
    ("knn", "far"): [0.90, 0.91, 0.92],
    ("msp", "far"): [0.93, 0.94, 0.95],
}
# `msp` is better on the test sets and in seed 0, `knn` on validation and over all seeds.
VALIDATION = [{"knn": 0.8, "msp": 0.81}, {"knn": 0.8, "msp": 0.7}, {"knn": 0.9, "msp": 0.8}]


def write_folders(root, validation):
    """Evaluation folders of three seeds; files have more keys than are read."""
    for seed in range(3):
        rows = [
            {"score": score, "dataset": name, "auroc": v[seed], "fpr95_id_positive": 1 - v[seed]}
            for (score, name), v in AUROC.items()
        ]
        pair = {"score": "fusion", "against": "fusion_baselines", "group": "near"}
        opponents = Opponents(("knn", "msp"), validation[seed], ("choice",), "no set")
        content = {
            "rows": rows,
            "id": {"accuracy": 0.9 + 0.01 * seed, "n": 7},
            "comparisons": [{**pair, "difference": 0.02, "ci95": [0.01, 0.03]}],
            "baselines": opponents.as_plain(),
            "settings": {},
        }
        folder = root / f"seed{seed}"
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(content))
    return [root / f"seed{seed}" for seed in range(3)]


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path, VALIDATION)


def test_gains_over_the_baseline_chosen_on_validation_are_tested_in_pairs(folders):
    tests = {(t.score, t.against, t.group): t for t in paired_tests(read_seeds(folders))}
    pairs = [("fusion", "fusion_baselines"), ("diffguard", "knn"), ("fusion", "knn")]
    assert list(tests) == [(*pair, group) for pair in pairs for group in ("near", "far")]
    test = tests["fusion", "fusion_baselines", "near"]
    assert test.differences == pytest.approx((0.02, 0.01, 0.02))
    assert test.intervals == ((0.01, 0.03),) * 3
    p_values = {
        key: ttest_rel(AUROC[key[0], key[2]], AUROC[key[1], key[2]]).pvalue
        for key in tests
        if key != ("diffguard", "knn", "far")
    }
    for key, p_value in p_values.items():
        assert tests[key].p_value == pytest.approx(p_value)
    smallest = min(p_values, key=p_values.__getitem__)
    assert tests[smallest].holm == pytest.approx(len(tests) * p_values[smallest])
    # The AUROC of all seeds are equal.
    assert tests["diffguard", "knn", "far"].holm == tests["diffguard", "knn", "far"].p_value == 1


def test_without_validation_sets_every_baseline_is_compared(tmp_path):
    seeds = read_seeds(write_folders(tmp_path, [{}, {}, {}]))
    against = {(test.score, test.against) for test in paired_tests(seeds)}
    every = {(score, name) for score in ("diffguard", "fusion") for name in ("knn", "msp")}
    assert against == {("fusion", "fusion_baselines"), *every}


def test_differences_that_do_not_vary_are_not_significant(folders):
    seeds = read_seeds(folders[:2])
    auroc = {key: value - 0.1 for key, value in seeds[0].auroc.items()}
    seeds[1] = replace(seeds[1], auroc=auroc)
    assert {test.p_value for test in paired_tests(seeds)} == {1.0}


def test_holm_never_reverses_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_command_prints_and_writes_the_tables(folders, tmp_path, capsys):
    argv = ["--scores", *map(str, folders), "--over_seeds", "--output", str(tmp_path / "all")]
    assert evaluate.main(argv) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "all" / "seeds.md").read_text()
    assert "| fusion_baselines | 80.0 ± 1.0 | 91.0 ± 1.0 |" in printed
    assert "| fusion_baselines | 20.0 ± 1.0 | 9.0 ± 1.0 |" in printed  # FPR@95
    assert "Accuracy on ID test images: 91.0 ± 1.0 %" in printed
    assert "Best baseline: knn, by its AUROC of 83.33 on OOD validation (choice)" in printed
    row = next(line for line in printed.splitlines() if "fusion − fusion_baselines, near" in line)
    assert "| +1.7 ± 0.6 |" in row
    assert row.endswith("| +2.0 (+1.0 to +3.0) | +1.0 (+1.0 to +3.0) | +2.0 (+1.0 to +3.0) |")
    content = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert content["rows"][0] == {
        "score": "diffguard",
        "dataset": "near",
        "auroc": [0.7, 0.69, 0.715],
        "fpr95_id_positive": pytest.approx([0.3, 0.31, 0.285]),
    }
    assert content["baselines"]["best"] == "knn"


def test_folders_that_cannot_be_compared_are_refused(folders):
    with pytest.raises(UserError, match="two evaluation folders or more"):
        read_seeds(folders[:1])
    with pytest.raises(UserError, match="name each evaluation folder once"):
        read_seeds([*folders, folders[0].parent / "seed1" / ".." / "seed0"])
    content = json.loads((folders[2] / "results.json").read_text())
    content["rows"].pop()
    (folders[2] / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"seed2 and .*seed0 differ in their scores or sets"):
        read_seeds(folders)
    (folders[1] / "results.json").unlink()
    with pytest.raises(UserError, match="seed1"):
        read_seeds(folders)
