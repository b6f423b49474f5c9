"""The command `train`: fit a classifier and a diffusion model, and calibrate a detector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from diffguard.errors import UserError
from diffguard.printing import printable
from diffguard.storage.paths import expand_home
from diffguard_cli.arguments import DEFAULT_STAGES, Stage, TrainingArguments, typed
from diffguard_cli.exit_codes import TIME_IS_UP
from diffguard_cli.interrupts import INTERRUPTED
from diffguard_cli.parser import Parser, parse
from diffguard_cli.program import command_line
from diffguard_cli.shipped_configs import shipped_configs
from diffguard_cli.yaml_text import read_yaml

if TYPE_CHECKING:
    from diffguard_cli.run import Run

DEFAULT_CONFIG = shipped_configs()["digits"]
# Options that belong to one command, not to its run.
_NOT_STORED = ("config", "dry_run")


def build_parser() -> Parser:
    """The command line of training."""
    from datamodules.config import DataConfig
    from diffguard.augment.settings import AugmentSettings
    from diffguard.training.trainer_config import TrainerConfig
    from diffguard_cli.config import ClassifierConfig, DiffusionConfig, NoisyClassifierConfig
    from diffguard_cli.detector_options import add_detector_options

    parser = Parser(
        "Train a DiffGuard detector: classifier, diffusion model, calibration.",
        prog=command_line("train"),
        usage="[--config FILE_OR_NAME] [--KEY VALUE …]",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--run_dir", type=str | None, default=None, help="folder of the new run")
    parser.add_argument(
        "--resume", type=str | None, default=None, help="folder of the run to resume"
    )
    parser.add_argument(
        "--stages",
        type=list[Stage],
        default=None,
        help="stages to run, in order (default: classifier, diffusion, calibrate; with "
        "augment.method diffusemix: diffusion, augment, classifier, calibrate); noisy_classifier "
        "is for an ablation",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="only print parameters, weight memory and network passes per image of the detector",
    )
    parser.add_class_arguments(DataConfig, "data")
    parser.add_argument("--classifier", type=ClassifierConfig, default=ClassifierConfig())
    parser.add_argument("--diffusion", type=DiffusionConfig, default=DiffusionConfig())
    parser.add_argument(
        "--noisy_classifier", type=NoisyClassifierConfig, default=NoisyClassifierConfig()
    )
    parser.add_argument("--augment", type=AugmentSettings, default=AugmentSettings())
    add_detector_options(parser)
    parser.add_argument("--trainer", type=TrainerConfig, default=TrainerConfig())
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stages of a training run.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: For a mistake in the command line, the config, the data or a model.
    """
    from diffguard_cli.config_check import check_files
    from diffguard_cli.detector_options import instantiate
    from diffguard_cli.unused_options import check_training_options

    began = time.monotonic()
    parser = build_parser()
    source = _find_config(argv, parser)
    namespace = parse(parser, source.argv, source.earlier_config, source.path)
    if namespace.stages is None:
        namespace.stages = DEFAULT_STAGES[namespace.augment.method]
    if not 0 <= namespace.seed < 2**32:
        raise UserError(f"--seed must be 0 to {2**32 - 1:,}, got {namespace.seed:,}")
    for section in (namespace.data, namespace.augment):
        if section.seed is None:
            section.seed = namespace.seed
    config = _config_of(namespace)
    arguments = typed(TrainingArguments, instantiate(parser, namespace))
    if arguments.stages == ["calibrate"]:
        # The run keeps the record of how its models were trained.
        config["trainer"] |= source.classes
    else:
        _check_named_again(source, config)
    _check(arguments)
    check_training_options(argv, arguments)
    if arguments.dry_run:
        from diffguard_cli.planned_cost import planned_cost, print_cost

        print_cost(planned_cost(arguments))
        return 0
    check_files(arguments)
    return _train(arguments, config, source, began)


@dataclass(frozen=True)
class _ConfigSource:
    """The source of a run's config.

    Attributes:
        argv: The command line, including the config file of a new run.
        name: Name of the config, used for the run's default folder.
        earlier_config: The config of the run to resume, in full, which the command line overrides;
            None for a new run.
        path: The file of that config.
        classes: The values in the section `trainer` of the run to resume that name classes, by
            key; the command line must name them again.
    """

    argv: list[str]
    name: str
    earlier_config: Mapping[str, Any] | None = None
    path: str = ""
    classes: Mapping[str, Any] = field(default_factory=dict)


def _config_of(namespace: Namespace) -> dict[str, Any]:
    """The whole config as the mappings, lists and single values that YAML has."""
    values = namespace.clone(with_meta=False).as_dict()
    return {key: _plain(value) for key, value in values.items() if key not in _NOT_STORED}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _find_config(argv: Sequence[str], parser: Parser) -> _ConfigSource:
    resume = _option(argv, "--resume")
    if resume is not None:
        return _resumed_config(argv, parser, expand_home(resume, "--resume"))
    config = _option(argv, "--config")
    if config is not None:
        return _ConfigSource(list(argv), Path(config).stem)
    return _ConfigSource(["--config", str(DEFAULT_CONFIG), *argv], DEFAULT_CONFIG.stem)


def _resumed_config(argv: Sequence[str], parser: Parser, folder: str) -> _ConfigSource:
    from diffguard.settings.old_keys import translated
    from diffguard_cli.old_trainer_keys import translated_trainer
    from diffguard_cli.stored_config import check_keys, without_classes

    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run: expected the folder of a run, with config.yaml")
    if _option(argv, "--run_dir") is not None:
        raise UserError("--resume names the run's folder, so --run_dir cannot be given too")
    values, classes = without_classes(read_yaml(path))
    check_keys(values, str(path))
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: expected the keys and values of a config")
    for section, translate in (("detector", translated), ("trainer", translated_trainer)):
        if isinstance(values.get(section), Mapping):
            values = {**values, section: translate(values[section])}
    # Keys that are newer than the run have their defaults.
    config = _config_of(parse(parser, [], values, str(path)))
    return _ConfigSource(list(argv), Path(folder).parent.name, config, str(path), classes)


def _option(argv: Sequence[str], name: str) -> str | None:
    """The last value of an option in a command line that has not been parsed yet."""
    value = None
    for position, word in enumerate(argv):
        if word == name and position + 1 < len(argv):
            value = argv[position + 1]
        elif word.startswith(f"{name}="):
            value = word.removeprefix(f"{name}=")
    return value


def _check_named_again(source: _ConfigSource, config: Mapping[str, Any]) -> None:
    """Refuse to resume without the classes that only the command line may name."""
    from diffguard_cli.stored_config import class_paths_in

    for key, value in source.classes.items():
        if not class_paths_in(config["trainer"][key]):
            paths = ", ".join(map(printable, class_paths_in(value)))
            raise UserError(
                f"the run has trainer.{key} {paths}, and a stored config starts no code: give "
                f"--trainer.{key} again, or remove the entry from {source.path}"
            )


def _check(arguments: TrainingArguments) -> None:
    """Check the command line before any file is read."""
    from diffguard.settings.image_size import check_image_size
    from diffguard_cli.config_check import check_config
    from lightning_modules.trainer import check_classes

    check_config(arguments)
    check_classes(arguments.trainer)
    if "calibrate" in arguments.stages:
        check_image_size(arguments.detector.reconstruction_distances, arguments.data.image_size)


def _train(
    arguments: TrainingArguments, config: dict[str, Any], source: _ConfigSource, began: float
) -> int:
    """Open the run's folder on all processes, and run the stages in it."""
    from diffguard_cli.run import Run
    from diffguard_cli.run_folder import open_run_folder
    from lightning_modules.connection import connect
    from lightning_modules.trainer import build_trainer

    deadline = arguments.trainer.deadline(began)
    trainer = build_trainer(arguments.trainer, "train", logger=False, enable_checkpointing=False)
    connect(trainer)
    with open_run_folder(trainer, config, source.name, source.earlier_config) as folder:
        # A run leaves the same checkpoint whether it was resumed or not.
        config["resume"] = None
        run = Run(folder, arguments.data, arguments.trainer, config["seed"], config, deadline)
        return _run(run, arguments)


def _run(run: Run, arguments: TrainingArguments) -> int:
    from diffguard_cli.pipeline import run_stages
    from lightning_modules.callbacks.time_limit import TimeIsUpError

    resume = f"to resume: {command_line('train')} --resume {quote(str(run.folder))}"
    try:
        run_stages(run, arguments)
    except TimeIsUpError as stop:
        run.say(f"{stop}; {resume}")
        return TIME_IS_UP
    except KeyboardInterrupt:
        run.say(f"interrupted; {resume}")
        return INTERRUPTED
    return 0
