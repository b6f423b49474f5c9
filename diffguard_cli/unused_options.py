"""Refuses options of a command line that would have no effect.

Only the words of a command line are refused, because a config file may serve several commands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields

from diffguard.augment.settings import AugmentSettings
from diffguard.denoisers.custom import is_import_path
from diffguard.errors import UserError
from diffguard.training.settings import ClassifierTraining, DiffusionTraining
from diffguard.training.training_options import TrainingOptions
from diffguard_cli.arguments import EvaluationArguments, TrainingArguments
from diffguard_cli.config import StageOptions

_FOR_STAGES = tuple(
    f"trainer.{name}"
    for name in (
        *(field.name for field in fields(TrainingOptions)),
        *("max_minutes", "measure_rate", "callbacks", "profiler"),
    )
)
_FOR_TRAINING = (
    *_FOR_STAGES,
    *("data.train_batch_size", "data.augment", "data.in_memory", "data.seed"),
)
_FOR_SETS = (
    *("full_table", "trainer.loggers", "data.ood", "data.id.test", "data.limit", "data.missing"),
    *("data.get_from", "data.ood_validation", "seeds"),
)
_FROM_SCRATCH = ("network", "kwargs", "scheduler")


def check_evaluation_options(argv: Sequence[str], arguments: EvaluationArguments) -> None:
    """Refuse options of an evaluation that have no effect.

    A dry run accepts the options of the command that it stands for.

    Args:
        argv: The command line.
        arguments: Its values.

    Raises:
        UserError: Naming the option.
    """
    _refuse(argv, _FOR_TRAINING, "it belongs to training")
    _refuse(argv, ["groups", "over_seeds"], "it belongs to --scores")
    if arguments.images:
        _refuse(argv, _FOR_SETS, "it belongs to an evaluation on ID and OOD sets, without --images")
    else:
        _refuse(argv, ["accept", "fdr", "drift", "explain"], "it judges the images of --images")


def check_training_options(argv: Sequence[str], arguments: TrainingArguments) -> None:
    """Refuse options for training if nothing is trained, or the model is given.

    Args:
        argv: The command line.
        arguments: Its values.

    Raises:
        UserError: Naming the option.
    """
    if arguments.stages == ["calibrate"]:
        _refuse(argv, (*_FOR_STAGES, "trainer.loggers"), "calibration trains no model")
    if arguments.augment.method == "none":
        names = [field.name for field in fields(AugmentSettings) if field.name != "method"]
        _refuse(argv, [f"augment.{name}" for name in names], "augment.method is none")
    stage = [field.name for field in fields(StageOptions)]
    classifier, diffusion = arguments.classifier, arguments.diffusion
    if classifier.ckpt is not None:
        names = [*stage, *(field.name for field in fields(ClassifierTraining)), "pretrained"]
        keys = [f"classifier.{name}" for name in names]
        _refuse(argv, keys, "classifier.ckpt names a trained classifier")
    names = []
    if diffusion.ckpt is not None:
        names += [*stage, *(field.name for field in fields(DiffusionTraining)), "sample_every"]
    source = diffusion.ckpt or diffusion.finetune
    if source is not None and not is_import_path(diffusion.network):
        names += _FROM_SCRATCH
    _refuse(argv, [f"diffusion.{name}" for name in names], f"{source} is a trained model")


def _refuse(argv: Sequence[str], sections: Collection[str], reason: str) -> None:
    for key in _keys(argv):
        if _is_below(key, sections):
            raise _unused(key, reason)


def _keys(argv: Sequence[str]) -> list[str]:
    return [word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")]


def _is_below(key: str, sections: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _unused(key: str, reason: str) -> UserError:
    return UserError(f"--{key} has no effect here, because {reason}: leave it out")
