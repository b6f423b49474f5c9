import pytest

from diffguard.report.decision import Decision
from diffguard.report.sentence import Facts, sentence

P_VALUES = {"diffguard": 0.0004, "fusion_baselines": 0.2, "fusion": 0.02}


@pytest.mark.parametrize(("stage", "end"), [(None, ""), (2, "stage 2 decided, ")])
def test_the_sentence_gives_each_reason_and_the_verdict(stage, end):
    text = sentence(
        Facts("cat", 0.62, P_VALUES, is_ood=True, stage=stage), Decision("fusion", 0.95)
    )
    assert text.startswith("The classifier sees “cat” with a probability of 62.0%; redrawn")
    assert "changed more than 99% of ID images do (p = 0.0004)" in text
    assert "the classifier's own scores are not unusual (p = 0.2)" in text
    assert ("stage" in text) == bool(end)
    assert end in text
    assert text.endswith("fusion has p = 0.02, at most the limit of 0.05: OOD.")


@pytest.mark.parametrize("uses_diffusion", [False, True])
def test_an_image_without_a_diffguard_score_is_not_compared(uses_diffusion):
    facts = Facts("cat", 1.0, {"msp": 0.3}, is_ood=False, uses_diffusion=uses_diffusion)
    text = sentence(facts, Decision("msp", 0.95))
    assert ("the decision did not need the diffusion model" in text) != uses_diffusion
    assert "redrawn" not in text
    assert "own scores" not in text
    assert text.endswith("above the limit of 0.05: ID.")
