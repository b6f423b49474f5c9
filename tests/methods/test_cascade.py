"""Images that the baselines decide skip the diffusion model, and nothing else changes."""

import pytest
import torch

from diffguard.errors import UserError
from diffguard.methods.items import Item
from diffguard.scores.calibration import Calibration
from diffguard.settings.fusion import FusionSettings
from tests.helpers.tiny_detector import build_detector, small_settings

CASCADE = FusionSettings("cascade", band=[0.3, 0.9])
IMAGES = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(3))
COMPLETE = {"msp", "knn", "fusion", "fusion_baselines"}


@pytest.fixture(scope="module")
def detector():
    return build_detector(small_settings(fusion=CASCADE))


def rows_of(detector, order, chunk=60, **options):
    """Rows by index, and the stream."""
    stream, results = detector.stream(8, **options), []
    items = [Item(IMAGES[i], index=i) for i in order]
    for start in range(0, len(items), chunk):
        results += stream.push(items[start : start + chunk])
    results += stream.flush()
    return {result.row.index: result.row for result in results}, stream


@pytest.fixture(scope="module")
def rows(detector):
    return rows_of(detector, range(60))[0]


def test_clear_images_have_no_score_of_the_diffusion_model(detector, rows):
    stages = [row.stage for row in rows.values()]
    assert 10 < stages.count(1) < 50
    for row in rows.values():
        if row.stage == 1:
            assert set(row.scores) == COMPLETE
            assert (row.stop_step, row.network_passes) == (None, 0)
        else:
            assert set(row.scores) == set(detector.score_names())
            assert row.network_passes == 12


def test_scores_are_those_of_a_run_without_skipping(detector, rows):
    everything, _ = rows_of(detector, range(60), skip="none")
    mean, _ = rows_of(build_detector(), range(60))
    for index, row in rows.items():
        assert {**everything[index].scores, **row.scores} == everything[index].scores
        plain = {n: v for n, v in row.scores.items() if n != "fusion"}
        assert {**mean[index].scores, **plain} == mean[index].scores
    order = sorted(rows, key=lambda i: mean[i].scores["fusion"])
    doubtful = [rows[i].scores["fusion"] for i in order if rows[i].stage == 2]
    assert doubtful == sorted(doubtful)


def test_scores_do_not_depend_on_the_order(detector, rows):
    shuffled, _ = rows_of(detector, torch.randperm(60).tolist(), chunk=7)
    assert shuffled == rows


def test_the_diffusion_model_gets_full_batches(detector, rows):
    stream = detector.stream(8)
    for start in range(0, 60, 4):
        items = [Item(IMAGES[i], index=i) for i in range(start, start + 4)]
        stream.push(items)
    assert stream.engine.calls > 0
    assert stream.engine.rows == 8 * stream.engine.calls
    stream.flush()
    assert stream.engine.rows == sum(row.network_passes for row in rows.values())


def test_python_decides_in_two_stages(detector, rows):
    verdicts = detector.predict(IMAGES, batch_size=8, accept=0.9)
    assert verdicts.stage.tolist() == [rows[i].stage for i in range(60)]
    assert verdicts[0].stage == verdicts.stage[0]
    assert verdicts.score.tolist() == [rows[i].scores["fusion"] for i in range(60)]
    # A score of the diffusion model needs it for every image.
    everything = detector.score(IMAGES, name="diffguard", batch_size=8)
    for i, row in rows.items():
        assert row.scores.get("diffguard", everything[i]) == everything[i]


def test_a_score_of_the_baselines_needs_no_diffusion_model(rows, monkeypatch):
    detector = build_detector(small_settings(decision="fusion_baselines"))
    monkeypatch.setattr(detector.denoiser, "predict_noise", None)
    verdicts = detector.predict(IMAGES, batch_size=8, accept=0.9)
    assert verdicts.score.tolist() == [rows[i].scores["fusion_baselines"] for i in range(60)]
    assert set(verdicts.stage.tolist()) == {1}
    knn = detector.score(IMAGES, name="knn", batch_size=8)
    assert knn.tolist() == [rows[i].scores["knn"] for i in range(60)]


def test_a_budget_is_met_on_the_validation_images():
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    labels = torch.zeros(40, dtype=torch.int64)
    detector = build_detector(small_settings(fusion=FusionSettings("cascade", budget=3.0)))
    detector.calibrate([(images, labels)], progress=False)
    passes = [r.network_passes for r in detector._rows(images, 64, "fusion")]
    # One image more would cost 12 / 40 passes.
    assert 2.7 < sum(passes) / 40 <= 3.0


def test_a_budget_needs_the_passes_of_the_validation_images():
    detector = build_detector()
    scores = {n: detector.calibration.scores[n] for n in detector.score_names(derived=False)}
    rule = small_settings(fusion=FusionSettings("cascade", budget=3.0)).fusion_rule()
    with pytest.raises(UserError, match=r"budget needs the network passes .* calibrate it again"):
        Calibration.fit(scores, rule)
    rule = small_settings(fusion=FusionSettings("cascade", budget=0.1)).fusion_rule()
    with pytest.raises(UserError, match=r"budget 0.1 does not suffice for a single one"):
        Calibration.fit(scores, rule, passes=torch.full((24,), 12.0).double())
