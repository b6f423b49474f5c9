"""Settings that combine scores apply to existing scores; only missing scores are computed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffguard import Detector
from diffguard.score_table.table import ScoreTable
from diffguard.score_table.writer import ScoreWriter
from diffguard.scores.calibration import Calibration
from diffguard.settings.plain import to_dict
from tests.helpers.commands import start

IMAGES = 18 + 7 + 9  # of the three sets
CASCADE = ["--detector.fusion.rule", "cascade", "--detector.fusion.band", "[0.3, 0.9]"]


@pytest.fixture
def written(monkeypatch):
    """The rows that are scored."""
    rows, write = [], ScoreWriter.write

    def record(writer, new):
        new = list(new)
        rows.extend(new)
        write(writer, new)

    monkeypatch.setattr(ScoreWriter, "write", record)
    return rows


@pytest.fixture
def table_of(ckpt, written):
    """Evaluates to a folder with further options; returns the bytes of the table."""

    def evaluate(output, *words):
        written.clear()
        assert start(ckpt, "--output", output, "--panels", 0, *words) == 0
        return (output / "scores.csv").read_bytes()

    return evaluate


def test_a_changed_fusion_applies_to_existing_scores(ckpt, tmp_path, table_of, written):
    whole = table_of(tmp_path)
    assert len(written) == IMAGES
    assert b"fusion" not in (tmp_path / "scores" / "rank-0.csv").read_bytes().splitlines()[0]
    values = {"distance": ["logits_l1", "l2"], "fused": ["msp", "knn"], "comparator": ["msp"]}
    changes = {**values, "decision": "diffguard", "accept": 0.9}
    words = [str(w).replace("'", "") for k, v in changes.items() for w in (f"--detector.{k}", v)]
    assert table_of(tmp_path, *words) != whole
    assert not written
    scores = ScoreTable.read(tmp_path / "scores.csv").scores
    settings = replace(Detector.load(ckpt).settings, **changes)
    detector = Detector.load(ckpt, settings=to_dict(settings))
    plain = {n: detector.calibration.scores[n] for n in detector.score_names(derived=False)}
    derived = Calibration.fit(plain, settings.fusion_rule()).derive(scores)
    assert list(scores) == detector.score_names()
    for name, column in derived.items():
        np.testing.assert_array_equal(scores[name], column)
    assert json.loads((tmp_path / "run.json").read_text())["thresholds"]["accept"] == 0.9
    assert table_of(tmp_path) == whole
    assert not written


def test_a_cascade_scores_only_what_is_missing(tmp_path, table_of, written):
    mean, fresh = tmp_path / "mean", tmp_path / "fresh"
    whole = table_of(mean)
    table = table_of(mean, *CASCADE)
    assert not written
    assert table == table_of(fresh, *CASCADE)
    skipped = {(row.dataset, row.index) for row in written if row.stage == 1}
    assert 0 < len(skipped) < len(written) == IMAGES
    # Without the cascade, the images that it skipped are scored, and no others.
    assert table_of(fresh) == whole
    assert {(row.dataset, row.index) for row in written} == skipped
