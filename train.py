"""Fit the classifier, fit or fine-tune the diffusion model, calibrate the detector.

`python train.py` alone runs the embedded default, `configs/digits.yaml`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import yaml

from lightning_modules.interrupts import INTERRUPTED, leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the next import takes seconds

from diffguard.printing import say
from lightning_modules.cli import TIME_IS_UP, Parser, parse, run

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "digits.yaml"
Stage = Literal["classifier", "diffusion", "noisy_classifier", "calibrate"]
# What may change when a run is resumed; the rest has shaped what it already holds.
_FREE = ("stages", "resume", "run_dir", "trainer", "detector", "debug", "config")
# Other processes of the same run must not choose a folder of their own.
_FOLDER_VARIABLE = "DIFFGUARD_RUN_DIR"


def build_parser() -> Parser:
    """The command line of training."""
    from datamodules.ood import OODDataModule
    from diffguard.settings import DetectorSettings
    from lightning_modules.settings import (
        ClassifierConfig,
        DiffusionConfig,
        NoisyClassifierConfig,
        TrainerConfig,
    )

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
    from lightning_modules.config_check import check_config

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
        from diffguard.settings_check import check_settings, check_weights

        check_settings(objects.detector, objects.data.image_size)
        check_weights(objects.detector)
    folder = _open_folder(config, name, resumed)
    # The same run, begun or resumed, leaves the same checkpoint.
    config["resume"] = None
    try:
        return _run(folder, config, objects, began)
    except UserError:
        # The command may be corrected and given again, with the same --run_dir.
        if resumed is None and [path.name for path in folder.iterdir()] == ["config.yaml"]:
            shutil.rmtree(folder)
        raise
    finally:
        os.environ.pop(_FOLDER_VARIABLE, None)


def _run(folder: Path, config: dict[str, Any], objects: Any, began: float) -> int:
    from lightning_modules.legs import TimeIsUpError, deadline_of
    from lightning_modules.runs import Run

    deadline = deadline_of(objects.trainer, began)
    current = Run(folder, objects.data, objects.trainer, config["seed"], config, deadline)
    try:
        _run_stages(current, objects)
    except TimeIsUpError as stop:
        current.say(f"{stop}; to go on: python train.py --resume {quote(str(folder))}")
        return TIME_IS_UP
    except KeyboardInterrupt:
        current.say(f"interrupted; to go on: python train.py --resume {quote(str(folder))}")
        return INTERRUPTED
    return 0


def _run_stages(current: Any, objects: Any) -> None:
    from lightning_modules import stages as stage
    from lightning_modules.calibration import calibrate
    from lightning_modules.diffusion_models import load_trained

    wanted: list[str] = objects.stages
    current.data.prepare_data()
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
            classifier = stage.load_classifier(current, objects.classifier)
            diffusion = load_trained(current, objects.diffusion)
            calibrate(current, objects.detector, classifier, diffusion, title)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _say_what_next(current, objects)


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
    from diffguard.paths import expand_home

    resume = _option(argv, "--resume")
    if resume is not None:
        resume = expand_home(resume, "--resume")
        stored = Path(resume) / "config.yaml"
        if not stored.is_file():
            raise UserError(f"{resume} is no run: expected the folder of a run, with config.yaml")
        if _option(argv, "--run_dir") is not None:
            raise UserError("--resume names the run's folder, so --run_dir cannot be given too")
        known = yaml.safe_load(stored.read_text(encoding="utf-8"))
        return ["--config", str(stored), *argv], Path(resume).parent.name, known
    given = _option(argv, "--config")
    if given is None:
        return ["--config", str(DEFAULT_CONFIG), *argv], DEFAULT_CONFIG.stem, None
    return argv, Path(given).stem, None


def _open_folder(config: dict[str, Any], name: str, resumed: Mapping[str, Any] | None) -> Path:
    """Make the folder of a new run, or check that a resumed one is continued as it began."""
    from diffguard.errors import UserError
    from diffguard.files import replace_file

    joined = os.environ.get(_FOLDER_VARIABLE)
    if joined is not None:
        return Path(joined)
    if resumed is not None:
        for key in config:
            if key not in _FREE and config[key] != resumed.get(key):
                raise UserError(
                    f"a resumed run keeps its config, but {key} differs from the one in "
                    f"{config['resume']}: start a new run to change it"
                )
        folder = Path(config["resume"])
    else:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        folder = Path(config["run_dir"] or Path("runs") / name / stamp)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} exists already: continue it with --resume {folder}, or name another "
                "--run_dir"
            )
    kept = {key: value for key, value in config.items() if key not in ("debug", "config", "resume")}
    with replace_file(folder / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    os.environ[_FOLDER_VARIABLE] = str(folder)
    return folder


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
