"""Several runs of the same data as one, and fusions from calibration scores alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffguard.errors import UserError
from diffguard.report.fusions import add_fusions
from diffguard.report.join import join_runs, run_labels
from diffguard.report.scored_run import ScoredRun, Thresholds
from diffguard.report.summary import summarize
from diffguard.scores.calibration import Calibration
from tests.helpers.small_table import GROUPS, NAMES, SIZES, make_table

VALIDATION = {
    name: torch.randn(60, generator=torch.Generator().manual_seed(n)).double()
    for n, name in enumerate(NAMES)
}


def make_run(folder, table=None, **changes):
    values = {
        "folder": folder,
        "table": table or make_table(),
        "groups": GROUPS,
        "sets": {name: {"n": n, "fingerprint": name} for name, n in SIZES.items()},
        "seed": 3,
        "calibration": dict(VALIDATION),
        "settings": {"seed": 3},
        "absent": {},
        "cost": {"images_per_second": 2.0},
        "headline": ["diffguard", "fusion"],
        "comparisons": [("fusion", "fusion_baselines")],
    }
    return ScoredRun(**{**values, **changes})


def changed(scores=(), **columns):
    """The small table with some scores shifted and some columns replaced."""
    table = make_table()
    values = {n: v + (n in scores) for n, v in table.scores.items()}
    return replace(table, scores=values, **columns)


def in_other_order(table, rows):
    """The same table with its rows, and the numbers of its sets, in another order."""
    names = tuple(reversed(table.dataset_names))
    columns = {
        name: getattr(table, name)[rows]
        for name in ("index", "label", "prediction", "probability", "error", "path",
                     "stop_step", "network_passes")
    }  # fmt: skip
    return replace(
        table,
        dataset_names=names,
        dataset=(len(names) - 1 - table.dataset)[rows].astype(np.int32),
        scores={name: values[rows] for name, values in table.scores.items()},
        **columns,
    )


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / name / "evaluation" for name in ("a", "b", "c")]


def test_a_single_run_is_unchanged(folders):
    run = make_run(folders[0])
    assert join_runs([run]) is run
    assert add_fusions(run, {}) == run


def test_equal_scores_are_one_column_and_others_are_named_apart(folders):
    table = changed(["diffguard", "fusion"])
    extra = replace(table, scores={**table.scores, "odin": table.scores["msp"] * 2})
    joined = join_runs([make_run(folders[0]), make_run(folders[1], extra)])
    scores = make_table().scores
    assert set(joined.table.scores) == {
        "msp", "diffguard (a)", "diffguard/l2", "fusion (a)", "fusion_baselines",
        "diffguard (b)", "fusion (b)", "odin",
    }  # fmt: skip
    np.testing.assert_array_equal(joined.table.scores["diffguard (a)"], scores["diffguard"])
    np.testing.assert_array_equal(joined.table.scores["diffguard (b)"], scores["diffguard"] + 1)
    assert joined.headline == ["diffguard (a)", "fusion (a)", "diffguard (b)", "fusion (b)"]
    assert joined.comparisons == [
        ("fusion (a)", "fusion_baselines"),
        ("fusion (b)", "fusion_baselines"),
    ]
    assert torch.equal(joined.calibration["fusion (b)"], VALIDATION["fusion"])
    results = summarize(joined, draws=20)
    assert results["rows"][0] == summarize(make_run(folders[0]), draws=20)["rows"][0]


def test_rows_are_joined_by_set_and_index_in_any_order(folders):
    rows = np.random.default_rng(1).permutation(len(make_table()))
    other = in_other_order(changed(["diffguard"]), rows)
    joined = join_runs([make_run(folders[0]), make_run(folders[1], other)]).table
    np.testing.assert_array_equal(
        joined.scores["diffguard (b)"], make_table().scores["diffguard"] + 1
    )
    assert {"msp", "fusion"} < set(joined.scores)


def test_an_image_that_one_run_could_not_read_is_left_out_for_all(folders):
    error = make_table().error
    error[3] = "gone"
    joined = join_runs([make_run(folders[0]), make_run(folders[1], changed(error=error))]).table
    assert joined.error[3] == "gone"
    assert joined.error[49] == "truncated"
    assert 3 not in joined.rows("digits")


def test_thresholds_are_joined_if_they_are_for_one_share(folders):
    first, second = (Thresholds(0.9, {"msp": 1.0, "fusion": limit}) for limit in (0.0, 1.0))
    runs = [
        make_run(folders[0], thresholds=first),
        make_run(folders[1], changed(["fusion"]), thresholds=second),
    ]
    joined = join_runs(runs).thresholds
    assert joined == Thresholds(0.9, {"msp": 1.0, "fusion (a)": 0.0, "fusion (b)": 1.0})
    for other in (None, replace(second, accept=0.95)):
        assert join_runs([runs[0], replace(runs[1], thresholds=other)]).thresholds is None


def test_each_run_keeps_its_cost_and_other_classifiers_are_reported(folders):
    prediction = make_table().prediction
    prediction[:7] = 4
    runs = [make_run(folders[0]), make_run(folders[1], changed(prediction=prediction))]
    joined = join_runs(runs)
    first, second = joined.settings["runs"]
    assert (first["name"], second["name"]) == ("a", "b")
    assert first["accuracy"] == 44 / 49
    assert second["accuracy"] != first["accuracy"]
    assert first["cost"]["images_per_second"] == 2.0
    assert first["cost"]["network_passes_per_image"] > 0
    assert joined.cost == {}
    assert (joined.table.network_passes == -1).all()
    assert "b predicts another class than a for 6 images" in joined.remarks[0]
    assert join_runs([make_run(folder) for folder in folders]).remarks == []


def relabeled(row, column, value):
    table = make_table()
    values = getattr(table, column).copy()
    values[row] = value
    return {"table": replace(table, **{column: values})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (relabeled(5, "label", 3), "the label of digits image 5 is 0 in the latter, 3 in the"),
        (
            relabeled(5, "path", "x.png"),
            "the path of digits image 5 is 5.png in the latter, x.png",
        ),
        (relabeled(49, "index", 50), "the index of digits image 49 is 49 in the latter, 50 in"),
        ({"groups": {**GROUPS, "far_a": "near"}}, "the group far_a is far in the latter, near in"),
        ({"groups": {**GROUPS, "mine": "far"}}, "the group mine is absent in the latter, far in"),
        ({"sets": {"digits": {"n": 50, "fingerprint": "z"}}}, "the set digits is"),
    ],
)
def test_runs_of_different_data_are_refused(folders, changes, message):
    with pytest.raises(UserError, match="scored different data") as caught:
        join_runs([make_run(folders[0]), make_run(folders[1], **changes)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_one_path_must_be_equal_if_both_were_scored(folders):
    table = make_table()
    numbers = np.arange(len(table))
    broken = int(np.flatnonzero(~table.valid)[0])
    order = np.arange(len(table))[::-1]
    other = {"table": in_other_order(table, order), "sets": make_run(folders[0]).sets}
    first = make_run(folders[0], contents=numbers)
    repaired = np.where(numbers == broken, -1, numbers)
    joined = join_runs([first, make_run(folders[1], contents=repaired[order], **other)])
    assert joined.table.dataset_names == table.dataset_names
    replaced = np.where(numbers == 5, -1, numbers)
    with pytest.raises(UserError, match="digits image 5 is one file in the latter, another"):
        join_runs([first, make_run(folders[1], contents=replaced[order], **other)])


def test_run_names_are_unique(folders):
    with pytest.raises(UserError, match="named twice"):
        join_runs([make_run(folders[0]), make_run(folders[0])])


def test_labels_are_the_differing_parts_of_the_paths(tmp_path):
    names = ["x/a/evaluation", "y/b/evaluation", "y/c/evaluation"]
    assert run_labels([tmp_path / name for name in names]) == ["a", "b", "c"]
    assert run_labels([tmp_path / "one", tmp_path / "two"]) == ["one", "two"]
    assert run_labels([tmp_path / "a", tmp_path / "x/a", tmp_path / "x"]) == ["1", "2", "3"]


def test_fusion_is_the_mean_of_negative_log_p_values(folders):
    run = add_fusions(make_run(folders[0]), {"mine": ["diffguard", "msp"]})
    table, rows = make_table(), make_table().valid
    fusion = Calibration(VALIDATION).fusion
    parts = [fusion.negative_log_p(name, table.scores[name]) for name in ("diffguard", "msp")]
    fused = run.table.scores["fusion/mine"]
    np.testing.assert_array_equal(fused[rows], (parts[0] + parts[1])[rows] / 2)
    assert run.comparisons[1:] == [("fusion/mine", "diffguard"), ("fusion/mine", "msp")]
    assert run.headline[-1] == "fusion/mine"
    assert run.settings["fusions"] == {"mine": ["diffguard", "msp"]}
    # Test images have no part in the normalization: alone, an image gets the same fused score.
    alone = replace(table, scores={name: values[:1] for name, values in table.scores.items()})
    single = add_fusions(make_run(folders[0], alone), {"mine": ["diffguard", "msp"]})
    assert single.table.scores["fusion/mine"][0] == fused[0]


@pytest.mark.parametrize(
    ("fusions", "message"),
    [
        ({"x": ["msp"]}, "two or more different scores"),
        ({"x": ["msp", "msp"]}, "two or more different scores"),
        ({"x": ["msp", "odin"]}, "no score 'odin' to fuse: expected one of msp"),
        ({"x": ["msp", "diffguard/l2"]}, "fusion normalizes 'diffguard/l2' by its scores"),
        ({"l2": ["msp", "fusion"]}, "there is a score 'fusion/l2' already"),
    ],
)
def test_impossible_fusions_are_refused(folders, fusions, message):
    table = make_table()
    table.scores["fusion/l2"] = table.scores["msp"]
    calibration = {name: values for name, values in VALIDATION.items() if name != "diffguard/l2"}
    with pytest.raises(UserError, match=message):
        add_fusions(make_run(folders[0], table, calibration=calibration), fusions)
