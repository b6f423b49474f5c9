"""Work that the needed score does not need is left out, and the score stays the same."""

from dataclasses import replace

import pytest
import torch

from diffguard.methods.items import Item
from diffguard.settings.selection import Selection
from tests.helpers.tiny_detector import build_detector, small_settings

IMAGES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(3))
SETTINGS = small_settings(unguided=["l2", "logits_l1"])


@pytest.fixture(scope="module")
def detector():
    return build_detector(SETTINGS)


@pytest.fixture(scope="module")
def complete(detector):
    return [result.row for result in detector.score_images(IMAGES, batch_size=8)]


def rows_for(detector, name):
    stream = detector.stream(8, only=name)
    items = [Item(image, index=i) for i, image in enumerate(IMAGES)]
    rows = [result.row for result in stream.push(items) + stream.flush()]
    return sorted(rows, key=lambda row: row.index)


@pytest.mark.parametrize(
    ("name", "computed", "passes"),
    [
        ("fusion", {"diffguard/logits_l1", "diffguard", "fusion", "fusion/msp", "fusion/knn"}, 12),
        ("diffguard/l2", {"diffguard/l2"}, 12),
        ("diffguard/unguided/l2", {"diffguard/unguided/l2"}, 15),
    ],
)
def test_only_what_a_score_needs_is_computed(detector, complete, name, computed, passes):
    rows = rows_for(detector, name)
    for row, whole in zip(rows, complete, strict=True):
        assert set(row.scores) == {*computed, "msp", "knn", "fusion_baselines"}
        assert row.scores == {name: whole.scores[name] for name in row.scores}
        assert (row.network_passes, whole.network_passes) == (passes, 15)
    assert set(rows[0].scores) == set(Selection(SETTINGS, name).names)


def test_python_computes_only_what_the_decision_needs(detector, complete):
    scores = detector.score(IMAGES, batch_size=8)
    assert scores.tolist() == [row.scores["fusion"] for row in complete]
    assert {row.network_passes for row in detector._rows(IMAGES, 8, "fusion")} == {12}


def test_a_method_alone_needs_no_reconstruction():
    settings = replace(
        SETTINGS, methods=["diffguard", "minority"], distances=["l2"], unguided=[], distance=["l2"]
    )
    detector = build_detector(settings)
    whole = {r.row.index: r.row for r in detector.score_images(IMAGES, batch_size=8)}
    for row in rows_for(detector, "minority"):
        assert row.scores["minority"] == whole[row.index].scores["minority"]
        assert row.network_passes < whole[row.index].network_passes
        assert (row.stage, row.stop_step) == (2, None)
