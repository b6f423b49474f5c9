"""Results as rows of OpenOOD's leaderboard."""

import csv
import json

import pytest

from datamodules.openood_lists import openood_sets
from diffguard.errors import UserError
from diffguard_cli import leaderboard

SETS = openood_sets("cifar10")
COUNT = 60


def results_of(shift=0.0, **lists):
    """Results of two scores: the AUROC of the k-th set is 0.5 + k / 100."""
    rows = []
    for score in ("msp", "fusion", "diffguard/l2"):
        for group, names in SETS.items():
            values = [0.5 + shift + place / 100 for place in range(len(names))]
            means = (group, sum(values) / len(values))
            for name, value in (*zip(names, values, strict=True), means):
                metrics = {"aupr_in": value / 2, "aupr_out": value / 4, "fpr95_ood_positive": 0.125}
                row = {"score": score, "dataset": name, "group": group, "auroc": value}
                rows.append({**row, **metrics, "n_ood": COUNT, "other": None})
    names = ("cifar10", *SETS["near"], *SETS["far"])
    image_lists = {name: {"list": "OpenOOD v1.5", "n": COUNT} for name in names}
    image_lists |= lists
    return {
        "rows": rows,
        "id": {"dataset": "cifar10", "n": COUNT, "accuracy": 0.95 + shift},
        "settings": {"config": {"data": {"limit": None}}, "image_lists": image_lists},
    }


@pytest.fixture
def write(tmp_path):
    def write(*runs):
        for number, results in enumerate(runs):
            folder = tmp_path / f"s{number}"
            folder.mkdir(exist_ok=True)
            (folder / "results.json").write_text(json.dumps(results))
        return [str(tmp_path / f"s{number}") for number in range(len(runs))]

    return write


def drop_tin(results):
    results["rows"] = [row for row in results["rows"] if row["dataset"] != "tin"]


def read_csv(text):
    return list(csv.reader(text.splitlines()))


def test_a_run_is_a_row_with_the_columns_and_digits_of_the_leaderboard(write, capsys):
    words = [*write(results_of()), "--arch", "ResNet18", "--description", "100 epochs"]
    assert leaderboard.main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Training,Postprocessor,Near-OOD_AUROC,Far-OOD_AUROC,ID_Accuracy,Outlier_Data,Arch,"
        "Additional_Description",
        # Near: the mean of 50 and 51; far: that of 50, 51, 52 and 53.
        "CrossEntropy,MSP,50.50,51.50,95.00,No,ResNet18,100 epochs",
        "CrossEntropy,DiffGuard fusion,50.50,51.50,95.00,No,ResNet18,100 epochs",
    ]


def test_seeds_have_their_population_standard_deviation(write, tmp_path, capsys):
    folders = write(results_of(), results_of(0.01), results_of(0.02))
    words = [*folders, "--arch", "ResNet18", "--scores", "msp", "--outlier_data"]
    assert leaderboard.main([*words, "--output", str(tmp_path / "out")]) == 0
    rows = read_csv(capsys.readouterr().out)
    # The standard deviation of 0, 1 and 2 is √(2/3).
    assert rows[1][2:6] == ["51.50 ± 0.82", "52.50 ± 0.82", "96.00 ± 0.82", "Yes"]
    assert read_csv((tmp_path / "out" / "leaderboard.csv").read_text()) == rows
    table = read_csv((tmp_path / "out" / "MSP.csv").read_text())
    assert table[0] == ["", "FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT", "ACC"]
    names = [*SETS["near"], "nearood", *SETS["far"], "farood"]
    assert [row[0] for row in table[1:]] == names
    assert table[2][1:4] == ["12.50 ± 0.00", "52.00 ± 0.82", "26.00 ± 0.41"]


def test_lists_that_could_not_be_verified_are_marked(write, capsys):
    results = results_of(tin={"list": "unverified", "n": COUNT})
    assert leaderboard.main([*write(results), "--arch", "ResNet18"]) == 0
    output = capsys.readouterr()
    assert "the image lists of tin could not be verified" in output.err
    assert read_csv(output.out)[1][-1] == "image lists not verified"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["id"].update(dataset="digits"), "not on OpenOOD's leaderboard"),
        (drop_tin, "other near-OOD sets than OpenOOD's cifar10"),
        (
            lambda r: r["settings"]["image_lists"].update(tin={"list": "differs", "n": COUNT}),
            "the image list of tin differs from OpenOOD",
        ),
        (
            lambda r: r["settings"]["image_lists"].update(tin={"list": "OpenOOD v1.5", "n": 99}),
            "evaluates 60 of the 99 images of tin",
        ),
        (lambda r: r["settings"]["config"]["data"].update(limit=COUNT), "at most 60 images"),
    ],
)
def test_other_sets_and_lists_are_refused(write, change, message):
    results = results_of()
    change(results)
    with pytest.raises(UserError, match=message):
        leaderboard.main([*write(results), "--arch", "ResNet18"])


def test_an_unknown_score_is_refused(write):
    with pytest.raises(UserError, match=r"no score 'knn' in a run: expected one of msp, fusion"):
        leaderboard.main([*write(results_of()), "--arch", "R", "--scores", "knn"])
