"""Fit the classifier, fit or fine-tune the diffusion model, calibrate the detector.

`python train.py` alone runs the embedded default, `configs/digits.yaml`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import yaml

from diffguard_cli.interrupts import INTERRUPTED, leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the next import takes seconds

from diffguard.printing import say
from diffguard_cli.parser import TIME_IS_UP, Parser, parse, run

if TYPE_CHECKING:
    from diffguard_cli.run import Run

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "digits.yaml"
Stage = Literal["classifier", "diffusion", "noisy_classifier", "calibrate"]


def build_parser() -> Parser:
    """The command line of training."""
    from datamodules.ood import OODDataModule
    from diffguard.settings.detector import DetectorSettings
    from diffguard_cli.config import ClassifierConfig, DiffusionConfig, NoisyClassifierConfig
    from lightning_modules.trainer import TrainerConfig

    parser = Parser("Train a DiffGuard detector: classifier, diffusion model, calibration.")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--run_dir", type=str | None, default=None, help="folder of the new run")
    parser.add_argument(
        "--resume", type=str | None, default=None, help="folder of a run to go on with"
    )
    parser.add_argument(
        "--stages",
        type=list[Stage],
        default=["classifier", "diffusion", "calibrate"],
        help="stages to run, in order; noisy_classifier is for an ablation",
    )
    parser.add_class_arguments(OODDataModule, "data")
    parser.add_argument("--classifier", type=ClassifierConfig, default=ClassifierConfig())
    parser.add_argument("--diffusion", type=DiffusionConfig, default=DiffusionConfig())
    parser.add_argument(
        "--noisy_classifier", type=NoisyClassifierConfig, default=NoisyClassifierConfig()
    )
    parser.add_argument("--detector", type=DetectorSettings, default=DetectorSettings())
    parser.add_argument("--trainer", type=TrainerConfig, default=TrainerConfig())
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stages; returns the exit code."""
    from diffguard.errors import UserError
    from diffguard_cli.config_check import check_config
    from diffguard_cli.run import Run
    from diffguard_cli.run_folder import open_run_folder
    from diffguard_cli.training_check import check_training
    from lightning_modules.callbacks.time_limit import deadline_of
    from lightning_modules.connection import connect
    from lightning_modules.trainer import build_trainer

    began = time.monotonic()
    parser = build_parser()
    argv, name, resumed = _with_config(list(argv))
    namespace = parse(parser, argv)
    config = yaml.safe_load(parser.dump(namespace, skip_unset=False, skip_validation=True))
    objects = parser.instantiate(namespace)
    if not 0 <= objects.seed < 2**32:
        raise UserError(f"--seed must be 0 … {2**32 - 1}, got {objects.seed}")
    check_config(objects)
    given = objects.classifier.ckpt
    if given and not Path(given).is_file():
        raise UserError(f"classifier.ckpt {given} does not exist: expected a file of weights")
    if "calibrate" in objects.stages:
        from diffguard.methods.checks import check_weights
        from diffguard.settings.checks import check_settings

        check_settings(objects.detector, objects.data.image_size)
        check_weights(objects.detector)
    deadline = deadline_of(objects.trainer, began)
    check_training(objects.stages, _sections(objects), objects.trainer)
    trainer = build_trainer(objects.trainer, "train", logger=False, enable_checkpointing=False)
    connect(trainer)
    with open_run_folder(trainer, config, name, resumed) as folder:
        # The same run, begun or resumed, leaves the same checkpoint.
        config["resume"] = None
        run = Run(folder, objects.data, objects.trainer, config["seed"], config, deadline)
        return _run(run, objects)


def _run(current: Run, objects: Any) -> int:
    from lightning_modules.callbacks.time_limit import TimeIsUpError

    try:
        _run_stages(current, objects)
    except TimeIsUpError as stop:
        current.say(f"{stop}; to go on: python train.py --resume {quote(str(current.folder))}")
        return TIME_IS_UP
    except KeyboardInterrupt:
        current.say(f"interrupted; to go on: python train.py --resume {quote(str(current.folder))}")
        return INTERRUPTED
    return 0


def _run_stages(current: Any, objects: Any) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    from diffguard.methods.checks import sees_labels
    from diffguard_cli import stages as stage
    from diffguard_cli.calibrate import calibrate
    from diffguard_cli.checks import check_data, check_untrained, tell_assumptions
    from diffguard_cli.models import load_classifier, load_trained

    wanted: list[str] = objects.stages
    current.data.prepare_data()
    sections = _sections(objects)
    stage.check_stages(current, {name: sections[name] for name in _left(current, objects)})
    settings = objects.detector if "calibrate" in wanted else None
    check_data(current, settings)
    if {"classifier", "calibrate"} & set(wanted):
        tell_assumptions(current, objects.classifier)
        if wanted != ["calibrate"]:
            check_untrained(current, objects.classifier, settings)
    for number, name in enumerate(wanted, 1):
        title = f"{number}/{len(wanted)} {name}"
        if name == "classifier":
            if objects.classifier.ckpt or current.classifier_file.is_file():
                current.say(f"{title}: given, skipped")
            else:
                stage.train_classifier(current, objects.classifier, title)
        elif name == "diffusion":
            if objects.diffusion.ckpt or current.diffusion_folder.is_dir():
                current.say(f"{title}: given, skipped")
            else:
                stage.train_diffusion(current, objects.diffusion, title)
        elif name == "noisy_classifier":
            if current.noisy_classifier_file.is_file():
                current.say(f"{title}: given, skipped")
            else:
                denoiser = load_trained(current, objects.diffusion).denoiser
                stage.train_noisy_classifier(current, objects.noisy_classifier, denoiser, title)
        else:
            classifier = load_classifier(current, objects.classifier)
            diffusion = load_trained(
                current, objects.diffusion, same_classes=sees_labels(objects.detector)
            )
            calibrate(current, objects.detector, classifier, diffusion, title)
    if rank_zero_only.rank == 0:
        _say_what_next(current, objects)


def _sections(objects: Any) -> dict[str, Any]:
    """The section of each stage that trains."""
    return {
        "classifier": objects.classifier,
        "diffusion": objects.diffusion,
        "noisy_classifier": objects.noisy_classifier,
    }


def _left(current: Any, objects: Any) -> list[str]:
    """The asked stages that are still to be trained."""
    done = {
        "classifier": objects.classifier.ckpt or current.classifier_file.is_file(),
        "diffusion": objects.diffusion.ckpt or current.diffusion_folder.is_dir(),
        "noisy_classifier": current.noisy_classifier_file.is_file(),
        "calibrate": True,
    }
    return [name for name in objects.stages if not done[name]]


def _say_what_next(current: Any, objects: Any) -> None:
    folder = current.folder
    lines = ["", f"The run is in {folder}. What comes next:"]
    if current.detector_file.is_file():
        lines.append(f"  python evaluate.py --ckpt {quote(str(current.detector_file))}")
    else:
        there = {
            "classifier": objects.classifier.ckpt or current.classifier_file.is_file(),
            "diffusion": objects.diffusion.ckpt or current.diffusion_folder.is_dir(),
            "calibrate": False,
        }
        left = ", ".join(name for name, done in there.items() if not done)
        lines.append(f"  python train.py --resume {quote(str(folder))} --stages '[{left}]'")
    lines.append(f"  tensorboard --logdir {quote(str(folder / 'tensorboard'))}")
    say(*lines)


def _with_config(argv: list[str]) -> tuple[list[str], str, dict[str, Any] | None]:
    """Put the config file that applies in front, and tell its name and a resumed run's config."""
    from diffguard.errors import UserError
    from diffguard.storage.paths import expand_home

    resume = _option(argv, "--resume")
    if resume is not None:
        from diffguard_cli.stored_config import check_keys
        from diffguard_cli.yaml_text import read_yaml

        resume = expand_home(resume, "--resume")
        stored = Path(resume) / "config.yaml"
        if not stored.is_file():
            raise UserError(f"{resume} is no run: expected the folder of a run, with config.yaml")
        if _option(argv, "--run_dir") is not None:
            raise UserError("--resume names the run's folder, so --run_dir cannot be given too")
        known = read_yaml(stored)
        check_keys(known, str(stored))
        return ["--config", str(stored), *argv], Path(resume).parent.name, known
    given = _option(argv, "--config")
    if given is None:
        return ["--config", str(DEFAULT_CONFIG), *argv], DEFAULT_CONFIG.stem, None
    return argv, Path(given).stem, None


def _option(argv: Sequence[str], name: str) -> str | None:
    """The last value of an option in a command line, before it is parsed."""
    found = None
    for position, word in enumerate(argv):
        if word == name and position + 1 < len(argv):
            found = argv[position + 1]
        elif word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


if __name__ == "__main__":
    run(main, sys.argv[1:])
