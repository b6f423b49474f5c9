import numpy as np

from diffguard.report.cases import choose_cases
from tests.helpers.small_table import GROUPS, make_table


def scores_of(table, rows):
    return table.scores["fusion"][rows]


def test_mistakes_are_on_the_wrong_side_of_the_threshold_and_sorted():
    table = make_table()
    flagged, accepted, *typical = choose_cases(table, GROUPS, "fusion", 1.5, 4)
    assert (flagged.name, accepted.name) == ("mistakes_id_flagged", "mistakes_ood_accepted")
    ident = table.rows("digits")
    worst = np.sort(scores_of(table, ident))[::-1][:4]
    np.testing.assert_array_equal(scores_of(table, flagged.rows), worst[worst > 1.5])
    assert (table.label[flagged.rows] >= 0).all()
    assert (scores_of(table, accepted.rows) <= 1.5).all()
    assert (table.label[accepted.rows] == -1).all()
    assert (np.diff(scores_of(table, accepted.rows)) >= 0).all()
    assert [cases.name for cases in typical] == [f"typical_{name}" for name in GROUPS]


def test_typical_images_span_the_scores_of_a_set():
    table = make_table()
    cases = choose_cases(table, GROUPS, "fusion", None, 3)
    rows = next(c.rows for c in cases if c.name == "typical_near_a")
    values = np.sort(scores_of(table, table.rows("near_a")))
    assert scores_of(table, rows)[[0, 2]].tolist() == [values[0], values[-1]]
    assert table.valid[np.concatenate([c.rows for c in cases])].all()


def test_without_a_threshold_the_extreme_images_are_shown():
    table = make_table()
    flagged, *_ = choose_cases(table, GROUPS, "fusion", None, 1)
    assert scores_of(table, flagged.rows) == scores_of(table, table.rows("digits")).max()


def test_choices_without_images_are_left_out():
    table = make_table()
    assert choose_cases(table, GROUPS, "fusion", None, 0) == []
    names = [cases.name for cases in choose_cases(table, GROUPS, "fusion", np.inf, 2)]
    assert "mistakes_id_flagged" not in names
    assert "mistakes_ood_accepted" in names
