import numpy as np

from diffguard.report.gallery_rows import gallery_rows
from tests.helpers.small_report import make_gallery
from tests.helpers.small_table import GROUPS, make_table

NONE = np.zeros(0, dtype=np.intp)


EVERY = np.arange(len(make_table()))


def shown(typical=NONE, sample=EVERY, **options):
    """The gallery, its rows, and whether the verdict on each is wrong."""
    gallery = make_gallery(make_table())
    limit = gallery.judge.calibration.threshold("fusion", gallery.judge.decision.accept)
    rows = gallery_rows(gallery, GROUPS, limit, typical, sample, **options)
    group = np.array([GROUPS.get(name, "") for name in gallery.table.dataset_names])
    is_id = group[gallery.table.dataset[rows]] == "id"
    scores = gallery.table.scores["fusion"][rows]
    return gallery, rows, (scores > limit) == is_id, np.abs(scores - limit), scores


def test_all_images_of_the_sets_are_shown_the_hardest_mistakes_first():
    gallery, rows, is_mistake, distance, scores = shown()
    sets = np.concatenate([gallery.table.rows(name) for name in GROUPS])
    assert sorted(rows) == sorted(sets)
    count = is_mistake.sum()
    assert is_mistake[:count].all()
    assert 0 < count < len(rows)
    assert (np.diff(distance[:count]) <= 0).all()
    assert (np.diff(scores[count:]) <= 0).all()


def test_of_too_many_images_mistakes_and_typical_ones_are_kept():
    _, every, is_mistake, *_ = shown()
    count, typical = is_mistake.sum(), every[-3:]
    gallery, rows, is_mistake, *_ = shown(typical, most=count + 12)
    np.testing.assert_array_equal(rows[:count], every[:count])
    assert len(rows) == count + 12
    assert set(typical) <= set(rows)
    # The other images are spread over the sets.
    assert len(set(gallery.table.dataset[rows[count:]])) == len(GROUPS)
    _, rows, is_mistake, *_ = shown(most=5)
    np.testing.assert_array_equal(rows, every[:5])


def test_correct_verdicts_are_those_of_the_sample():
    _, every, is_mistake, *_ = shown()
    count, sample = is_mistake.sum(), every[::3]
    _, rows, *_ = shown(sample=sample)
    np.testing.assert_array_equal(rows[:count], every[:count])
    assert set(rows[count:]) == set(sample) & set(every[count:])
