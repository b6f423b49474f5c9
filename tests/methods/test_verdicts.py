"""Verdicts as a sequence, as tensors and as plain values."""

import json

import numpy as np
import pytest
import torch

from diffguard import Verdicts
from diffguard.score_table.rows import ScoreRow
from diffguard.scores.calibration import Calibration

CALIBRATION = Calibration({"msp": torch.arange(1.0, 100.0, dtype=torch.float64)})
ROWS = [
    ScoreRow(
        "x", i, "", -1, i % 2, probability=0.5 + i / 100, scores={"msp": score}, stage=i % 2 + 1
    )
    for i, score in enumerate([0.0, 99.0, 50.0, 1000.0])
]
VERDICTS = Verdicts.from_rows(ROWS, CALIBRATION, "msp", 0.95, class_names=["cat", "dog"])


def test_a_verdict_has_the_values_of_its_row():
    assert len(VERDICTS) == 4
    verdict = VERDICTS[np.int64(1)]
    assert (verdict.label, verdict.class_name, verdict.score) == (1, "dog", 99.0)
    assert (verdict.percentile, verdict.p_value, verdict.is_ood) == (100.0, 0.02, True)
    assert [v.stage for v in VERDICTS] == [1, 2, 1, 2]
    assert [v.p_value for v in VERDICTS] == [1.0, 0.02, 0.51, 0.01]
    assert [VERDICTS[i] for i in range(4)] == list(VERDICTS)
    assert VERDICTS[-1] == VERDICTS[3]
    assert VERDICTS.class_name == ["cat", "dog", "cat", "dog"]
    with pytest.raises(IndexError):
        VERDICTS[4]


def test_a_slice_is_verdicts_too():
    part = VERDICTS[1:3]
    assert isinstance(part, Verdicts)
    assert list(part) == list(VERDICTS)[1:3]
    assert part.score.tolist() == [99.0, 50.0]
    assert len(VERDICTS[4:]) == 0


def test_plain_values_pass_through_json():
    plain = VERDICTS[0].to_dict()
    assert json.loads(json.dumps(plain)) == plain
    columns = VERDICTS.to_dict()
    assert json.loads(json.dumps(columns)) == columns
    assert {name: values[0] for name, values in columns.items()} == plain


def test_a_long_list_is_cut_in_print():
    many = Verdicts.from_rows(ROWS * 5, CALIBRATION, "msp", 0.95, class_names=["cat", "dog"])
    lines = repr(many).splitlines()
    assert lines[0] == "Verdicts: 20 images, 10 OOD"
    assert len(lines) == 12
    assert lines[-1] == "  … 10 more"
