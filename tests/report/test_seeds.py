"""Results of several seeds."""

import json

import pytest
from scipy.stats import ttest_rel

import evaluate
from diffguard.errors import UserError
from diffguard.report.seeds import holm, paired_tests, read_seeds

AUROC = {
    ("diffguard", "near"): [0.70, 0.69, 0.715],
    ("fusion", "near"): [0.82, 0.80, 0.83],
    ("fusion_baselines", "near"): [0.80, 0.79, 0.81],
    ("diffguard", "far"): [0.90, 0.91, 0.92],
    ("fusion", "far"): [0.91, 0.94, 0.92],
    ("fusion_baselines", "far"): [0.90, 0.91, 0.92],
}


@pytest.fixture
def folders(tmp_path):
    """Evaluation folders of three seeds; files have more keys than are read."""
    for seed in range(3):
        rows = [
            {"score": score, "dataset": name, "auroc": values[seed], "fpr95": 0.1}
            for (score, name), values in AUROC.items()
        ]
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps({"rows": rows, "settings": {}}))
    return [tmp_path / f"seed{seed}" for seed in range(3)]


def test_gains_are_tested_in_pairs_and_corrected(folders):
    tests = {(test.score, test.group): test for test in paired_tests(read_seeds(folders))}
    names = [(score, group) for group in ("near", "far") for score in ("diffguard", "fusion")]
    assert list(tests) == names
    p_values = [
        ttest_rel(AUROC[score, group], AUROC["fusion_baselines", group]).pvalue
        for score, group in names
    ]
    assert tests["fusion", "near"].differences == pytest.approx((0.02, 0.01, 0.02))
    assert tests["fusion", "near"].p_value == pytest.approx(p_values[1])
    # Of four tests, the smallest p-value counts four times and the next one three times.
    assert p_values[0] < p_values[1] < p_values[3]
    assert tests["diffguard", "near"].holm == pytest.approx(4 * p_values[0])
    assert tests["fusion", "near"].holm == pytest.approx(3 * p_values[1])
    # The AUROC of all seeds are equal.
    assert tests["diffguard", "far"].holm == tests["diffguard", "far"].p_value == 1


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
    assert "| fusion − fusion_baselines, near | +1.7 ± 0.6 |" in printed
    content = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert content["rows"][0] == {
        "score": "diffguard",
        "dataset": "near",
        "auroc": [0.7, 0.69, 0.715],
    }


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
