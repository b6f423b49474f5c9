import pytest

from diffguard.scores.fusion_rule import CascadeRule
from tests.helpers.small_report import CLASSES, make_gallery
from tests.helpers.small_table import make_table


def test_images_have_their_verdict_and_its_outcome():
    table = make_table()
    gallery = make_gallery(table)
    assert len(gallery.rows) == table.valid.sum()
    for place, row in enumerate(gallery.rows.tolist()):
        is_ood = bool(gallery.judgment.is_ood[place])
        id_image = gallery.image(row, group="id")
        assert id_image.facts.is_ood == is_ood
        assert id_image.outcome == ("false alarm" if is_ood else "correct")
        assert gallery.image(row, group="far").outcome == ("correct" if is_ood else "missed OOD")
        assert gallery.image(row).outcome == ""
        assert id_image.text.endswith("OOD." if is_ood else "ID.")
    assert 0 < gallery.judgment.is_ood.sum() < len(gallery.rows)


def test_labels_and_names_come_from_the_table():
    table = make_table()
    table.path[1] = ""
    image = make_gallery(table).image(1)
    assert (image.name, image.dataset, image.label) == ("digits[1]", "digits", CLASSES[1])
    assert image.score == pytest.approx(table.scores["fusion"][1])
    assert make_gallery(table).image(60).label == ""


def test_a_decision_of_the_baselines_is_made_in_stage_one():
    table = make_table()
    assert table.stage[1] == 2  # the diffusion model made scores that do not decide
    cascade = CascadeRule(["msp"], (0.5, 0.9))
    for decision, stage in (("fusion", 2), ("fusion_baselines", 1), ("msp", 1)):
        image = make_gallery(table, decision, cascade).image(1)
        assert image.facts.stage == stage
        assert image.facts.uses_diffusion == (stage == 2)
        assert image.has_no_pass == (stage == 1)
        assert f"stage {stage} decided" in image.text
