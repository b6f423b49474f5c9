import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from diffguard.report import bootstrap
from diffguard.report.bootstrap import METRICS, Bootstrap, interval
from diffguard.report.metrics import compute_metrics


def make_scores(n, shift=0.0, digits=1):
    rng = np.random.default_rng([n, int(10 * shift)])
    values = rng.normal(shift, 1, n)
    return [np.round(values, digits), np.round(values + rng.normal(0, 0.7, n), digits)]


ID, OOD = make_scores(40), make_scores(25, 1.2)


def all_draws(ident, ood, name, **options):
    return Bootstrap(ident, len(ood[0]), **options).draws(ood, name)


def auroc_draws(ident, ood, name, **options):
    return all_draws(ident, ood, name, **options)["auroc"]


def counts_of(draws, n, m, name, seed):
    """How often each image is in each draw."""
    id_counts = bootstrap._counts(np.random.default_rng([seed, 0]), n, draws)
    key = [seed, 1, bootstrap.crc32(name.encode())]
    return id_counts, bootstrap._counts(np.random.default_rng(key), m, draws)


def test_every_draw_is_the_auroc_of_the_resampled_images():
    values = auroc_draws(ID, OOD, "letters", draws=30, seed=5)
    assert values.shape == (30, 2)
    c, d = counts_of(30, 40, 25, "letters", 5)
    assert (c.sum(axis=1) == 40).all()
    assert (d.sum(axis=1) == 25).all()
    is_ood = np.r_[np.zeros(40), np.ones(25)]
    for draw in range(30):
        for score in range(2):
            images, weights = np.r_[ID[score], OOD[score]], np.r_[c[draw], d[draw]]
            expected = roc_auc_score(is_ood, images, sample_weight=weights)
            assert values[draw, score] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 3])
def test_every_draw_has_the_metrics_of_the_resampled_images(digits):
    ident, ood = make_scores(40, digits=digits), make_scores(25, 1.2, digits=digits)
    values = all_draws(ident, ood, "letters", draws=20, seed=5)
    c, d = counts_of(20, 40, 25, "letters", 5)
    for draw in range(20):
        for score in range(2):
            drawn = np.repeat(ident[score], c[draw]), np.repeat(ood[score], d[draw])
            expected = compute_metrics(*map(torch.from_numpy, drawn))
            for metric in METRICS:
                assert values[metric][draw, score] == pytest.approx(expected[metric], abs=1e-12)


def test_chunks_do_not_change_the_draws(monkeypatch):
    whole = all_draws(ID, OOD, "letters", draws=50)
    for values in (7 * 65, 1):
        monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", values)
        again = all_draws(ID, OOD, "letters", draws=50)
        for metric in METRICS:
            np.testing.assert_array_equal(again[metric], whole[metric])


def test_seed_and_set_determine_the_draws():
    first = auroc_draws(ID, OOD, "letters", draws=20)
    np.testing.assert_array_equal(auroc_draws(ID, OOD, "letters", draws=20), first)
    assert (auroc_draws(ID, OOD, "patches", draws=20) != first).any()
    assert (auroc_draws(ID, OOD, "letters", draws=20, seed=1) != first).any()
    # The draws of a score do not depend on which other scores are there.
    alone = auroc_draws(ID[1:], OOD[1:], "letters", draws=20)
    np.testing.assert_array_equal(alone[:, 0], first[:, 1])


def test_sets_share_their_id_draws():
    # One OOD image between the ID scores: the draw's AUROC is the drawn share of ID below it.
    ident = [np.arange(10.0)]
    draws = Bootstrap(ident, 500, draws=40)
    a = draws.draws([np.array([4.5])], "a")["auroc"]
    b = draws.draws([np.full(500, 4.5)], "b")["auroc"]
    np.testing.assert_array_equal(a, b)
    assert a.std() > 0


def test_interval_against_the_normal_theory():
    # Hanley and McNeil's variance for two exponentials, where it is exact.
    rng = np.random.default_rng(0)
    n = m = 400
    ident, ood = [rng.exponential(1.0, n)], [rng.exponential(3.0, m)]
    values = auroc_draws(ident, ood, "x", draws=1000)
    a = roc_auc_score(np.r_[np.zeros(n), np.ones(m)], np.r_[ident[0], ood[0]])
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (n * m)
    assert values.std() == pytest.approx(np.sqrt(variance), rel=0.1)
    low, high = interval(values[:, 0])
    assert (low, high) == pytest.approx(
        (a - 1.96 * np.sqrt(variance), a + 1.96 * np.sqrt(variance)), abs=0.005
    )


def test_paired_differences_are_narrower_than_independent_ones():
    ident, ood = make_scores(300, digits=3), make_scores(300, 1.2, digits=3)
    ident[1], ood[1] = ident[0] + 1e-3 * ident[1], ood[0] + 1e-3 * ood[1]
    values = auroc_draws(ident, ood, "x", draws=200)
    low, high = interval(values[:, 1] - values[:, 0])
    alone = interval(values[:, 0])
    assert low <= high < low + 0.1 * (alone[1] - alone[0])


@pytest.mark.parametrize("digits", [0, 2])
def test_first_order_is_close_to_exact(monkeypatch, digits):
    ident, ood = make_scores(1500, digits=digits), make_scores(1200, 1.2, digits=digits)
    exact, close = both_draws(monkeypatch, ident, ood)
    exact, close = exact["auroc"], close["auroc"]
    assert (exact != close).any()
    assert np.abs(exact - close).max() < 0.15 * exact.std(axis=0).min()
    for score in range(2):
        width = np.diff(interval(exact[:, score]))[0]
        assert interval(close[:, score]) == pytest.approx(
            interval(exact[:, score]), abs=0.03 * width
        )


@pytest.mark.parametrize("metric", METRICS[1:])
def test_first_order_gives_the_interval_of_the_false_positive_rate(monkeypatch, metric):
    ident, ood = make_scores(3000, digits=4), make_scores(2500, 1.2, digits=4)
    exact, close = (draws[metric] for draws in both_draws(monkeypatch, ident, ood))
    for score in range(2):
        assert np.corrcoef(exact[:, score], close[:, score])[0, 1] > 0.95
        width = np.diff(interval(exact[:, score]))[0]
        assert interval(close[:, score]) == pytest.approx(
            interval(exact[:, score]), abs=0.12 * width
        )


def both_draws(monkeypatch, ident, ood):
    """Exact draws and draws to first order of the same images."""
    exact = all_draws(ident, ood, "x", draws=300)
    monkeypatch.setattr(bootstrap, "EXACT_ROWS", 0)
    return exact, all_draws(ident, ood, "x", draws=300)


def test_images_drawn_in_groups_give_the_interval_of_single_ones(monkeypatch):
    # Sorted, as tables are that list a set class by class.
    order = np.argsort(make_scores(6000)[0])
    ident = [values[order] for values in make_scores(6000, digits=3)]
    ood = make_scores(4000, 1.2, digits=3)
    monkeypatch.setattr(bootstrap, "EXACT_ROWS", 0)
    one_by_one = all_draws(ident, ood, "x", draws=2000)
    monkeypatch.setattr(bootstrap, "GROUPS", 1000)
    in_groups = all_draws(ident, ood, "x", draws=2000)
    for metric in METRICS[1:]:
        assert in_groups[metric].std(axis=0) == pytest.approx(
            one_by_one[metric].std(axis=0), rel=0.08
        )
    single, grouped = one_by_one["auroc"], in_groups["auroc"]
    assert grouped.mean(axis=0) == pytest.approx(single.mean(axis=0), abs=1e-3)
    assert grouped.std(axis=0) == pytest.approx(single.std(axis=0), rel=0.08)
    difference = [np.diff(draws, axis=1).std() for draws in (grouped, single)]
    assert difference[0] == pytest.approx(difference[1], rel=0.08)
    other = auroc_draws(ident, [values - 0.3 for values in ood], "y", draws=2000)
    assert np.corrcoef(other[:, 0], grouped[:, 0])[0, 1] > 0.3  # the same ID images are drawn


@pytest.mark.parametrize("exact_rows", [0, 20_000])
def test_every_draw_of_a_perfect_score_is_1_and_of_a_useless_one_a_half(monkeypatch, exact_rows):
    monkeypatch.setattr(bootstrap, "EXACT_ROWS", exact_rows)
    perfect, useless = [np.zeros(9), np.zeros(9)], [np.ones(5), np.zeros(5)]
    values = all_draws(perfect, useless, "x", draws=25)
    np.testing.assert_array_equal(values["auroc"], np.tile([1.0, 0.5], (25, 1)))
    for metric in METRICS[1:]:
        np.testing.assert_array_equal(values[metric], np.tile([0.0, 1.0], (25, 1)))


def test_a_single_image_of_each_kind_gives_equal_draws():
    assert auroc_draws([np.array([0.0])], [np.array([1.0])], "x", draws=3).tolist() == [[1.0]] * 3
