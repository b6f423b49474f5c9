"""The part of a checkpoint's config that an evaluation uses: the data, and how to compute scores.

A checkpoint may come from a stranger. It therefore does not control processes, downloads or disk
access. Numbers of workers and threads are used only up to the number of cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datamodules.config import DataConfig
from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.storage.schema import validated_plain
from diffguard.training.precision import AUTO, FULL_PRECISION
from diffguard.training.trainer_config import TrainerConfig

# Keys that make a parser import a class or read a file.
_RESERVED = ("class_path", "init_args", "dict_kwargs")
# Trainer settings that may name classes, and the type of a value that does.
_WITH_CLASSES = {"loggers": list, "callbacks": list, "profiler": Mapping}
# Trainer settings that affect a score, or the display.
_TRAINER_KEYS = ("accelerator", "precision", "threads", "progress")
# A larger batch size is taken from the command line only.
_LARGEST_BATCH = 4096
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def stored_config(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The sections `data`, `trainer` and `detector` that the command line overrides.

    Args:
        content: A checkpoint's content from `read_checkpoint`.
        path: The checkpoint, for error messages.

    Raises:
        UserError: If a value has a wrong type, or a key would make a parser import a class or read
            a file.
    """
    config, _ = without_classes(content["config"])
    check_keys({"config": config, "settings": content["settings"]}, path)
    data, trainer = config.get("data"), config.get("trainer")
    validated_plain(DataConfig, data, f"{path}: config.data")
    validated_plain(TrainerConfig, trainer, f"{path}: config.trainer")
    data = {**_detector_data(content), **_given(data)}
    trainer = {key: value for key, value in trainer.items() if key in _TRAINER_KEYS}
    if config["trainer"].get("devices") == 1:
        trainer["devices"] = 1
    if trainer.get("accelerator") not in _ACCELERATORS:
        trainer.pop("accelerator", None)
    cores = os.cpu_count() or 1
    reason = f"there are {cores} cores here"
    _at_most(cores, "trainer.threads", trainer, "threads", reason)
    _at_most(cores, "data.num_workers", data, "num_workers", reason)
    _at_most(_LARGEST_BATCH, "data.batch_size", data, "batch_size", "a batch takes long to fill")
    return {"data": data, "trainer": trainer, "detector": content["settings"]}


def precision_of_calibration(trainer: TrainerConfig, config: Mapping[str, Any]) -> TrainerConfig:
    """The `trainer` section of an evaluation, with the precision of the calibration for `auto`.

    Args:
        trainer: The section.
        config: The config in the checkpoint.
    """
    if trainer.precision != AUTO:
        return trainer
    return replace(trainer, precision=calibration_precision(config))


def calibration_precision(config: Mapping[str, Any]) -> str:
    """The precision of the calibration of a detector with this config."""
    precision: str = config["trainer"].get("precision", FULL_PRECISION)
    return FULL_PRECISION if precision == AUTO else precision


def _detector_data(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the detector itself defines of the images and classes."""
    image, names = content["image"], content["classifier"]["spec"].get("class_names")
    values = {"image_size": image["size"], "channels": image["channels"]}
    return values if names is None else {**values, "class_names": list(names)}


def _given(data: Mapping[str, Any]) -> dict[str, Any]:
    """The `data` section without downloads and without values that were left open."""
    return {key: value for key, value in data.items() if key != "download" and value is not None}


def without_classes(config: Any) -> tuple[Any, dict[str, Any]]:
    """Leave out the loggers, callbacks and profiler that a stored config names by class path.

    A class that the user named for one command must not run in another one without being named
    again.

    Args:
        config: The stored config.

    Returns:
        The config without these entries, and the values in the section `trainer` that had any, by
        key.
    """
    trainer = config.get("trainer") if isinstance(config, Mapping) else None
    if not isinstance(trainer, Mapping):
        return config, {}
    with_classes = {
        key: trainer[key]
        for key, kind in _WITH_CLASSES.items()
        if isinstance(trainer.get(key), kind) and class_paths_in(trainer[key])
    }
    rest = {key: _plain_entries(value) for key, value in with_classes.items()}
    return {**config, "trainer": {**trainer, **rest}}, with_classes


def class_paths_in(value: Any) -> list[str]:
    """The class paths in a stored value of the section `trainer`."""
    entries = value if isinstance(value, list) else [value]
    return [str(entry["class_path"]) for entry in entries if _has_class(entry)]


def _plain_entries(value: Any) -> Any:
    return [entry for entry in value if not _has_class(entry)] if isinstance(value, list) else None


def _has_class(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "class_path" in entry


def check_keys(values: Any, source: str) -> None:
    """Refuse keys that make a parser import a class or read a file, at any depth.

    Raises:
        UserError: If there is such a key; names it.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in _RESERVED or (isinstance(key, str) and key.startswith("__")):
                raise UserError(
                    f"{source} has the key {key!a} in its config, which names code or a file: "
                    "expected plain settings"
                )
            check_keys(value, source)
    elif isinstance(values, list):
        for value in values:
            check_keys(value, source)


def _at_most(most: int, name: str, section: dict[str, Any], key: str, reason: str) -> None:
    """Drop a number that would make this machine slow."""
    count = section.get(key)
    if isinstance(count, int) and count > most:
        del section[key]
        say(
            f"note: ignored the checkpoint's {name} {count:,}: {reason}; set it with --{name}",
            file=sys.stderr,
        )
