"""The stages of a training run in order; a stage whose model exists is skipped."""

from __future__ import annotations

from shlex import quote

from lightning.pytorch.utilities import rank_zero_only

from diffguard.methods.checks import sees_labels
from diffguard.printing import say
from diffguard_cli import stages
from diffguard_cli.arguments import DEFAULT_STAGES, Stage, TrainingArguments
from diffguard_cli.augmentation import augment, check_edits, load_mixtures
from diffguard_cli.calibrate import calibrate
from diffguard_cli.checks import (
    check_data,
    check_given_diffusion,
    check_untrained,
    report_assumptions,
)
from diffguard_cli.classifier_model import load_classifier
from diffguard_cli.diffusion_model import load_trained
from diffguard_cli.program import command_line
from diffguard_cli.run import Run


def run_stages(run: Run, arguments: TrainingArguments) -> None:
    """Check the data and the models, run the stages, and print the next commands.

    Raises:
        UserError: If data or models do not fit.
        TimeIsUpError: If training reached its time limit.
    """
    run.data.prepare_data()
    _check_stages(run, arguments)
    for number, stage in enumerate(arguments.stages, 1):
        title = f"{number}/{len(arguments.stages)} {stage}"
        if _has_model(run, arguments, stage):
            run.say(f"{title}: skipped, its model exists")
        else:
            _run_stage(run, arguments, stage, title)
    rank_zero_only(say)(*_next_steps(run, arguments))


def _check_stages(run: Run, arguments: TrainingArguments) -> None:
    """Check the requirements of all stages before the first one."""
    sections = arguments.sections
    pending = [stage for stage in arguments.stages if not _has_model(run, arguments, stage)]
    stages.check_stages(run, {stage: sections[stage] for stage in pending if stage in sections})
    if "classifier" in pending and "augment" not in arguments.stages:
        check_edits(run, arguments.augment)
    settings = arguments.detector if "calibrate" in arguments.stages else None
    check_data(run, settings)
    if {"classifier", "calibrate"} & set(arguments.stages):
        report_assumptions(run, arguments.classifier)
        if arguments.stages != ["calibrate"]:
            check_untrained(run, arguments.classifier, settings)
    if settings is not None and pending != ["calibrate"]:
        check_given_diffusion(run, arguments.diffusion, settings)


def _run_stage(run: Run, arguments: TrainingArguments, stage: Stage, title: str) -> None:
    if stage == "classifier":
        mixtures = load_mixtures(run, arguments.augment)
        stages.train_classifier(run, arguments.classifier, title, mixtures)
    elif stage == "diffusion":
        stages.train_diffusion(run, arguments.diffusion, title)
    elif stage == "noisy_classifier":
        denoiser = load_trained(run, arguments.diffusion).denoiser
        stages.train_noisy_classifier(run, arguments.noisy_classifier, denoiser, title)
    elif stage == "augment":
        augment(run, arguments, title)
    else:
        classifier = load_classifier(run, arguments.classifier)
        same_classes = sees_labels(arguments.detector)
        diffusion = load_trained(run, arguments.diffusion, same_classes=same_classes)
        calibrate(run, arguments.detector, classifier, diffusion, title)


def _has_model(run: Run, arguments: TrainingArguments, stage: Stage) -> bool:
    """Whether the model of a stage is given or trained; calibration always runs."""
    if stage == "classifier":
        return bool(arguments.classifier.ckpt) or run.classifier_file.is_file()
    if stage == "diffusion":
        return bool(arguments.diffusion.ckpt) or run.diffusion_folder.is_dir()
    return stage == "noisy_classifier" and run.noisy_classifier_file.is_file()


def _is_done(run: Run, arguments: TrainingArguments, stage: Stage) -> bool:
    """Whether a stage need not run again; edits are needed until the classifier is trained."""
    if stage == "augment":
        return run.edits_record.is_file() or _has_model(run, arguments, "classifier")
    return _has_model(run, arguments, stage)


def _next_steps(run: Run, arguments: TrainingArguments) -> list[str]:
    lines = ["", f"The run is in {run.folder}. Next commands:"]
    if run.detector_file.is_file():
        lines.append(f"  {command_line('evaluate')} --ckpt {quote(str(run.detector_file))}")
    else:
        order = DEFAULT_STAGES[arguments.augment.method]
        rest = ", ".join(stage for stage in order if not _is_done(run, arguments, stage))
        resume = f"{command_line('train')} --resume {quote(str(run.folder))}"
        lines.append(f"  {resume} --stages '[{rest}]'")
    lines.append(f"  tensorboard --logdir {quote(str(run.folder / 'tensorboard'))}")
    lines.append("  http://localhost:6006/?tagFilter=.*#timeseries shows all charts unfolded")
    return lines
