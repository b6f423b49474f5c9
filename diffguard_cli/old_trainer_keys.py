"""The former section `trainer.options`, whose keys are now keys of `trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffguard.errors import UserError

_OLD = "trainer.options"


def refuse_old_trainer_option(word: str) -> None:
    """Refuse a word of a command line that is an option of the former section.

    Raises:
        UserError: Naming the old key and the new one.
    """
    key = word.partition("=")[0].removeprefix("--")
    if word.startswith("--") and f"{key}.".startswith(f"{_OLD}."):
        raise _moved(key.removeprefix(_OLD).removeprefix("."))


def refuse_old_trainer_keys(trainer: Any) -> None:
    """Refuse the section `trainer` of a config that has the former section.

    Raises:
        UserError: Naming the old key and the new one.
    """
    if isinstance(trainer, Mapping) and "options" in trainer:
        options = trainer["options"]
        raise _moved(str(next(iter(options), "")) if isinstance(options, Mapping) else "")


def translated_trainer(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The section `trainer` of a run's config, with the keys of today."""
    options = trainer.get("options")
    rest = {key: value for key, value in trainer.items() if key != "options"}
    return {**rest, **options} if isinstance(options, Mapping) else rest


def _moved(key: str) -> UserError:
    if not key:
        return UserError("trainer.options is gone: its keys are now keys of trainer")
    return UserError(f"trainer.options.{key} is now trainer.{key}")
