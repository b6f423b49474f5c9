"""Checks of a training config before any image is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffguard.denoisers.custom import is_import_path
from diffguard.denoisers.formats.hub import check_name
from diffguard.denoisers.networks import argument_names
from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.errors import UserError
from diffguard.methods.checks import check_steps
from diffguard.scores.build import check_weights
from diffguard_cli.arguments import TrainingArguments
from diffguard_cli.config import DiffusionConfig


def check_config(config: TrainingArguments) -> None:
    """Refuse a config that cannot be trained.

    Args:
        config: The command line of training.

    Raises:
        UserError: If a value is out of range or a key has no effect; names the key.
    """
    if not config.stages:
        raise UserError("--stages is empty: name at least one of the stages that --help lists")
    _check_diffusion(config)
    _check_augment(config)


def check_files(config: TrainingArguments) -> None:
    """Make sure that the files of weights exist that a config names or needs.

    Args:
        config: The command line of training.

    Raises:
        UserError: If one does not exist; names the key.
    """
    files = {
        "classifier.ckpt": config.classifier.ckpt,
        "augment.classifier": config.augment.classifier,
    }
    for key, path in files.items():
        if path and not Path(path).is_file():
            raise UserError(f"{key} {path} does not exist: expected a file of weights")
    if "calibrate" in config.stages:
        check_weights(config.detector.all_distances, config.detector.perceptual_weights)


def _check_diffusion(arguments: TrainingArguments) -> None:
    config = arguments.diffusion
    if config.lora_alpha is not None and not (
        config.lora_rank and 0 < config.lora_alpha < math.inf
    ):
        raise UserError(
            "diffusion.lora_alpha must be positive and needs diffusion.lora_rank, got "
            f"{config.lora_alpha:g} with rank {config.lora_rank}"
        )
    if config.lora_targets != DiffusionConfig().lora_targets and not config.lora_rank:
        raise UserError(
            "diffusion.lora_targets has no effect without diffusion.lora_rank: set it too"
        )
    if config.ckpt and config.finetune:
        raise UserError(
            "diffusion.ckpt names a trained model, so diffusion.finetune has no effect: leave out "
            "one of them"
        )
    for key in ("ckpt", "finetune"):
        if name := getattr(config, key):
            check_name(name, f"diffusion.{key}")
    if "diffusion" not in arguments.stages or config.ckpt or config.finetune:
        return
    schedule = schedule_from_config(config.scheduler)
    if "calibrate" in arguments.stages:
        check_steps(arguments.detector, len(schedule))
    if is_import_path(config.network):
        return
    if argument_names(config.network) is not None:
        _check_keys("diffusion.kwargs", config.kwargs, config.network)
    scheduler = str(config.scheduler.get("_class_name"))
    if argument_names(scheduler) is None:
        scheduler = "DDPMScheduler"  # the loader treats an unknown scheduler as DDPM's
    _check_keys("diffusion.scheduler", config.scheduler, scheduler)


def _check_augment(arguments: TrainingArguments) -> None:
    stages, is_used = arguments.stages, arguments.augment.method != "none"
    if "augment" not in stages:
        return
    if not is_used:
        raise UserError(
            "stage augment makes no edits with augment.method none: set it to diffusemix, or leave "
            "augment out of --stages"
        )
    position = stages.index("augment")
    if "classifier" in stages and stages.index("classifier") < position:
        raise UserError(
            "stage classifier trains with the edits of stage augment: name augment before it"
        )
    uses_own_model = arguments.augment.instruct.weights is None
    if "diffusion" in stages and uses_own_model and position < stages.index("diffusion"):
        raise UserError(
            "stage augment edits with the model of stage diffusion: name diffusion before it"
        )
    if ckpt := arguments.classifier.ckpt:
        raise UserError(
            "stage augment makes edits to train a classifier with, but classifier.ckpt names a "
            f"trained one: leave it out; augment.classifier {ckpt} makes it check the edits"
        )


def _check_keys(section: str, values: Mapping[str, Any], cls: str) -> None:
    """Refuse keys that a diffusers class would ignore."""
    allowed = argument_names(cls) or []
    for key in values:
        # diffusers adds keys that begin with an underscore to a config.json.
        if key not in allowed and not key.startswith("_"):
            raise UserError(f"{section} has no key {key!r}: {cls} takes {', '.join(allowed)}")
