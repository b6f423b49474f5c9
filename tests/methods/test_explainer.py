"""Explanations of verdicts."""

import pytest
import torch

from diffguard.errors import UserError
from diffguard.report.decision import Decision
from diffguard.report.sentence import Facts, sentence
from diffguard.settings.fusion import FusionSettings
from tests.helpers.tiny_detector import build_detector, small_settings


def test_an_explanation_has_the_verdict_of_predict_and_its_reasons(detector, images):
    explanation = detector.explain(images[3])
    verdict = detector.predict(images[3])[0]
    assert explanation.verdict == verdict
    assert explanation.p_values["fusion"] == verdict.p_value
    assert set(explanation.p_values) == set(explanation.scores) == set(detector.score_names())
    assert torch.equal(explanation.pictures.image, images[3])
    assert list(explanation.pictures.pictures) == [
        "input", "CAM", "unguided", "guided", "|input − guided|", "features",
    ]  # fmt: skip
    text = str(explanation)
    assert text.startswith(f"The classifier sees “{verdict.class_name}” with a probability of ")
    assert f"fusion has p = {verdict.p_value:.2g}, " in text
    assert text.endswith("OOD." if verdict.is_ood else "ID.")
    heads = [axes.get_title() for axes in explanation.figure().axes]
    assert heads == list(explanation.pictures.pictures)


def test_an_explanation_names_the_stage_that_decided(images):
    cascade = FusionSettings("cascade", band=[0.3, 0.9])
    detector = build_detector(small_settings(fusion=cascade))
    verdicts = detector.predict(images, batch_size=8)
    assert set(verdicts.stage.tolist()) == {1, 2}
    for stage in (1, 2):
        place = verdicts.stage.tolist().index(stage)
        explanation = detector.explain(images[place])
        assert explanation.verdict == verdicts[place]
        assert f"stage {stage} decided, " in explanation.text
        # The pictures show a reconstruction in both cases, so the sentence describes it.
        assert "guided" in explanation.pictures.pictures
        assert "redrawn as" in explanation.text


def test_several_images_and_wrong_shares_are_refused(detector, images):
    with pytest.raises(UserError, match="explain takes one image, got 2: call it for each"):
        detector.explain(images[:2])
    with pytest.raises(UserError, match="must lie between 0 and 1, got 2"):
        detector.explain(images[0], accept=2)


def test_the_sentence_gives_the_reasons_of_the_verdict():
    p_values = {"diffguard": 0.004, "fusion_baselines": 0.03, "fusion": 0.002}
    facts = Facts("cat", 0.998, p_values, is_ood=True, stage=2)
    assert sentence(facts, Decision("fusion", 0.95)) == (
        "The classifier sees “cat” with a probability of 99.8%; redrawn as “cat”, it changed more "
        "than 99% of ID images do (p = 0.004); the classifier's own scores are unusual (p = 0.03); "
        "stage 2 decided, the classifier and the diffusion model; fusion has p = 0.002, at most "
        "the limit of 0.05: OOD."
    )
    p_values = {"fusion_baselines": 0.6, "fusion": 0.7}
    alone = Facts("cat", 1.00001, p_values, is_ood=False, stage=1, uses_diffusion=False)
    assert sentence(alone, Decision("fusion", 0.95, fdr=0.1)) == (
        "The classifier sees “cat” with a probability of 100.0%; the decision did not need "
        "the diffusion model; the classifier's own scores are not unusual (p = 0.6); stage 1 "
        "decided, the classifier's scores alone; fusion has p = 0.7, above the limit for a false "
        "discovery rate of 10%: ID."
    )
