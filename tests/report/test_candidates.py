import math

import numpy as np

from diffguard.report.candidates import Candidates, even_sample, mistakes_first, suspicious_first
from diffguard.score_table.rows import ScoreRow


def row(index, score, dataset="far"):
    return ScoreRow(dataset, index, "", -1, scores={"fusion": score})


def test_the_highest_severities_and_the_sample_are_admitted():
    rng = np.random.default_rng(0)
    scores = rng.permutation(2000) / 2000
    candidates = Candidates({("far", 5)}, suspicious_first("fusion"), most=20)
    admitted = [i for i, score in enumerate(scores) if candidates.admits(row(i, score))]
    assert set(np.argsort(-scores)[:20]) | {5} <= set(admitted)
    assert len(admitted) < 2 * 20 * (1 + math.log(2000 / 20))


def test_mistakes_are_severe_by_their_distance_from_the_threshold():
    severity = mistakes_first({"digits": "id", "far": "far"}, "fusion", 1.0)
    assert severity(row(0, 1.5, "digits")) == 0.5
    assert severity(row(0, 0.25)) == 0.75
    assert severity(row(0, 1.0)) == 0.0  # accepted up to the threshold
    assert severity(row(0, 1.0, "digits")) is severity(row(0, 1.5)) is None
    candidates = Candidates((), severity, most=1)
    assert not candidates.admits(row(0, 1.5))
    assert candidates.admits(row(0, 0.5))
    assert not candidates.admits(row(0, 0.75))


def test_the_sample_is_spread_over_all_sets():
    pairs = [(name, index) for name in ("a", "b") for index in range(500)]
    sample = even_sample(pairs, 10)
    assert len(sample) == 10
    assert sum(name == "a" for name, _ in sample) == 5
    assert even_sample(pairs, 2000) == set(pairs)
