"""The batch size of a resumed scoring run."""

import pytest

from diffguard_cli.scoring_terms import Terms


@pytest.mark.parametrize(
    ("requested", "expected"), [("auto", 16), (64, 16), (32, None), (16, 16), (10, 16)]
)
def test_a_resumed_run_uses_its_first_batch_size(requested, expected):
    terms = Terms(batch_size=None, requested=requested, threads=None)
    manifest = {"batch_size": 16, "batch_size_setting": 64}
    assert terms.resumed(manifest).batch_size == expected
    assert terms.resumed({}) == terms


@pytest.mark.parametrize(
    ("setting", "before", "expected"),
    [("auto", True, True), ("auto", False, False), ("auto", "x", None), (True, False, True)],
)
def test_a_resumed_run_keeps_its_compilation(setting, before, expected):
    terms = Terms.of_settings(8, None, setting)
    assert terms.resumed({"settings": {"compile": before}}).compile == expected
    assert terms.resumed({}) == terms
