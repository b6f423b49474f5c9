"""The former section `trainer.options`."""

import pytest

from diffguard.errors import UserError
from diffguard_cli.old_trainer_keys import (
    refuse_old_trainer_keys,
    refuse_old_trainer_option,
    translated_trainer,
)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--trainer.options.max_steps", "trainer.options.max_steps is now trainer.max_steps"),
        ("--trainer.options.profiler=simple", "trainer.options.profiler is now trainer.profiler"),
        ("--trainer.options", "its keys are now keys of trainer"),
        ("--trainer.options={}", "its keys are now keys of trainer"),
    ],
)
def test_old_options_are_refused_with_the_new_name(word, message):
    with pytest.raises(UserError, match=message):
        refuse_old_trainer_option(word)


def test_other_words_are_accepted():
    for word in ("--trainer.max_steps", "--trainer.optionsx", "trainer.options"):
        refuse_old_trainer_option(word)


def test_a_config_with_the_old_section_is_refused_and_a_stored_one_is_translated():
    old = {"devices": 1, "options": {"max_steps": 3, "deterministic": True}}
    with pytest.raises(UserError, match=r"trainer\.options\.max_steps is now trainer\.max_steps"):
        refuse_old_trainer_keys(old)
    assert translated_trainer(old) == {"devices": 1, "max_steps": 3, "deterministic": True}
    assert translated_trainer({"devices": 1, "options": {}}) == {"devices": 1}
    refuse_old_trainer_keys({"devices": 1})
