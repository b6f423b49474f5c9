"""Evaluation on ID and OOD sets: scores, metrics and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffguard.checkpoint.file import library_versions
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.scorer import Scorer
from diffguard.report.candidates import Candidates, even_sample, mistakes_first
from diffguard.report.cases import choose_cases
from diffguard.report.decision import Decision
from diffguard.report.gallery import Judge
from diffguard.report.publish import report
from diffguard.report.results_log import ResultsLog
from diffguard.report.run_files import read_run, write_run
from diffguard.report.scored_run import Thresholds
from diffguard.score_table.table import ScoreTable
from diffguard.scores.calibration import Calibration
from diffguard.scores.conformal import needed_images
from diffguard.settings.plain import to_dict
from diffguard_cli.arguments import EvaluationArguments
from diffguard_cli.calibrate import recalibrated
from diffguard_cli.evaluation_detector import (
    identity_of,
    load_detector,
    results_folder,
)
from diffguard_cli.evaluation_gallery import evaluation_gallery
from diffguard_cli.finished_run import FinishedRun
from diffguard_cli.opponents import validated_opponents, validation_stream
from diffguard_cli.pictures import Pictures
from diffguard_cli.scoring import ScoringRun
from diffguard_cli.shared_table import Metrics, read_together
from lightning_modules.loggers import build_loggers
from lightning_modules.results_log import results_log
from lightning_modules.trainer import check_classes, scoring_trainer

if TYPE_CHECKING:
    from datamodules.ood import OODDataModule

# Images of a panel without --panels.
_PER_PANEL = 6


def score_sets(content: Mapping[str, Any], arguments: EvaluationArguments) -> int:
    """Score the sets of `data` and report the metrics.

    Args:
        content: The checkpoint's content.
        arguments: The command line.

    Returns:
        The exit code.

    Raises:
        UserError: If there is no OOD set, the data do not fit the detector, or the folder of the
            results belongs to another run.
    """
    check_classes(arguments.trainer)
    detector, differences = load_detector(content, arguments)
    data = arguments.data
    data.prepare_data()
    _check_sets(arguments, detector.classifier.num_classes)
    trainer = scoring_trainer(arguments.trainer, "evaluate")
    identity = {**identity_of(arguments), "groups": data.groups}

    def scoring_in(folder: Path, detector: Detector) -> ScoringRun:
        return ScoringRun(
            detector,
            data,
            data.stream("test"),
            folder,
            identity,
            derive=True,
            settings=arguments.detector,
            threads=arguments.trainer.threads,
            candidates=partial(_candidates, data),
        )

    scoring = scoring_in(_output(arguments), detector)
    if differences:
        scoring = recalibrated(scoring, scoring_in, content, arguments, differences[0], trainer)
    run = scoring.run(trainer)
    table, metrics = read_together(run.table, data.groups, trainer)
    if trainer.is_global_zero:
        _publish(scoring, run, table, metrics, content["config"], arguments)
    return 0


def _candidates(data: OODDataModule, detector: Scorer) -> Candidates | None:
    """The images that the gallery may show; None without a threshold, and so without a gallery."""
    calibration, settings = detector.require_calibration(), detector.settings
    if calibration.count < needed_images(settings.accept):
        return None
    threshold = calibration.threshold(detector.decision, settings.accept)
    severity = mistakes_first(data.groups, detector.decision, threshold)
    return Candidates(even_sample(data.stream("test").pairs()), severity)


def _output(arguments: EvaluationArguments) -> Path:
    return Path(arguments.output or results_folder(arguments.ckpt) / "evaluation")


def _check_sets(arguments: EvaluationArguments, num_classes: int) -> None:
    data = arguments.data
    if len(data.groups) < 2:
        raise UserError(
            "there is no OOD set to compare with the ID test images: name one with "
            "--data.ood.far.NAME FOLDER, or score a folder of images with --images FOLDER"
        )
    data.sets.check_labels(data.evaluation_sets("test")[0], "test", num_classes)
    validation_stream(data)  # refuses a wrong source before anything is scored


def _publish(
    scoring: ScoringRun,
    run: FinishedRun,
    table: ScoreTable,
    metrics: Metrics,
    config: Mapping[str, Any],
    arguments: EvaluationArguments,
) -> None:
    """Record the run beside its scores, then write and print the results."""
    detector, output = scoring.detector, scoring.folder
    decision = detector.decision
    settings = {
        "config": {
            **config,
            "data": asdict(arguments.data.config),
            "detector": to_dict(detector.settings),
        },
        "seed": detector.seed,
        "batch_size": run.batch_size,
        "compile": run.compile,
        "libraries": library_versions(),
        "device": str(detector.device),
        "command": arguments.command,
        "decision": decision,
        "image_lists": arguments.data.image_lists(),
        **scoring.identity,
    }
    calibration = detector.require_calibration()
    thresholds = _thresholds(calibration, detector.settings.accept)
    with run.precision():
        opponents = validated_opponents(detector, arguments.data, run.batch_size)
    left_out = arguments.data.sets.left_out
    parts = {name: calibration.rule.needs(name) for name in calibration.rule.derived}
    write_run(output, calibration.scores, settings, left_out, thresholds, opponents, parts)
    log_folder = output if arguments.output else results_folder(arguments.ckpt)
    threshold = None if thresholds is None else thresholds.scores[decision]
    groups, panels = scoring.data.groups, arguments.panels
    count = panels if isinstance(panels, int) else _PER_PANEL
    pictures = Pictures(scoring, run, table)
    cases = pictures.panels(choose_cases(table, groups, decision, threshold, count))
    images = []
    if threshold is not None:
        rule = Decision(decision, detector.settings.accept)
        judge = Judge(calibration, detector.classifier.class_names, rule)
        images = evaluation_gallery(
            pictures, judge, groups, threshold, cases, reconstruct_all=panels == "all"
        )
    report(
        read_run(output, table),
        output,
        log_folder / "tensorboard" if "tensorboard" in arguments.trainer.loggers else None,
        logs=_logs(arguments, log_folder),
        metrics=metrics,
        panels=cases,
        images=images,
        full_table=arguments.full_table,
    )


def _thresholds(calibration: Calibration, accept: float) -> Thresholds | None:
    """The thresholds of all scores, unless there are too few ID validation images."""
    if calibration.count < needed_images(accept):
        return None
    scores = {name: calibration.threshold(name, accept) for name in calibration.scores}
    return Thresholds(accept, scores)


def _logs(arguments: EvaluationArguments, folder: Path) -> list[ResultsLog]:
    """The loggers of `trainer.loggers`; the report itself writes TensorBoard's files."""
    names = [logger for logger in arguments.trainer.loggers if logger != "tensorboard"]
    return [results_log(logger) for logger in build_loggers(names, folder, "evaluation")]
