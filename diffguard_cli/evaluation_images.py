"""Evaluation of a folder of images: a verdict for each image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.checks import check_unlabeled
from diffguard.methods.drift import check_drift, drift_of
from diffguard.methods.scorer import Scorer
from diffguard.pretrained import image_folder
from diffguard.printing import say
from diffguard.report.verdicts import Decision, report_images
from diffguard.score_table.table import ScoreTable
from diffguard.scores.drift import SAMPLE_SIZE
from diffguard_cli.arguments import EvaluationArguments
from diffguard_cli.calibrate import recalibrated
from diffguard_cli.evaluation_detector import (
    identity_of,
    load_detector,
    results_folder,
)
from diffguard_cli.exit_codes import SKIPPED_FILES
from diffguard_cli.scoring import ScoringRun, free_run
from lightning_modules.trainer import scoring_trainer


def score_images(content: Mapping[str, Any], arguments: EvaluationArguments) -> int:
    """Score the images of a folder and report the verdicts.

    Without `--output`, the results are in `images/NAME` beside the checkpoint, where `NAME` is the
    name of the folder.

    Args:
        content: The checkpoint's content.
        arguments: The command line.

    Returns:
        The exit code; 3 if files were skipped.

    Raises:
        UserError: If the folder has no images, the settings need labels, the decision needs more ID
            validation images, or the folder of the results belongs to another run.
    """
    check_unlabeled(arguments.detector)
    data, images = arguments.data, image_folder(str(arguments.images))
    results = _results_folder(arguments, images)
    stream = data.folder_stream(images, without=[results])
    detector, differences = load_detector(content, arguments)
    if not differences:
        _decision(detector, arguments).check(detector.require_calibration())
        if arguments.drift:
            check_drift(detector)
    trainer = scoring_trainer(arguments.trainer, "score images")
    identity = identity_of(arguments)

    def scoring_in(folder: Path, detector: Detector) -> ScoringRun:
        return ScoringRun(
            detector,
            data,
            stream,
            folder,
            identity,
            derive=True,
            settings=arguments.detector,
            threads=arguments.trainer.threads,
        )

    if arguments.output is None:
        name = Path(os.path.realpath(images)).name or "root"
        scoring = free_run(results / name, trainer, lambda folder: scoring_in(folder, detector))
    else:
        scoring = scoring_in(results, detector)
    if differences:
        scoring = recalibrated(scoring, scoring_in, content, arguments, differences[0], trainer)
    run = scoring.run(trainer)
    if not trainer.is_global_zero:
        return 0
    scorer, table = scoring.detector, ScoreTable.read(run.table)
    skipped = report_images(
        table,
        scoring.folder,
        scorer.require_calibration(),
        scorer.classifier.class_names,
        _decision(scorer, arguments),
    )
    if arguments.drift:
        _report_drift(scoring, table)
    return SKIPPED_FILES if skipped else 0


def _report_drift(scoring: ScoringRun, table: ScoreTable) -> None:
    """Test for drift with all scores, and with the features of a random choice of images."""
    rows, detector, data = np.flatnonzero(table.valid), scoring.detector, scoring.data
    rng = np.random.default_rng(detector.seed)
    sample = np.sort(rng.permutation(rows)[:SAMPLE_SIZE])
    batches = data.stream_loader(scoring.stream.only(scoring.stream.select[sample]))
    scores = table.scores[detector.decision][rows]
    drift = drift_of(detector, scores, batches, data.read_size)
    count = detector.require_calibration().count
    say(f"{drift}; {len(rows):,} images against {count:,} ID validation images")


def _decision(detector: Scorer, arguments: EvaluationArguments) -> Decision:
    settings = arguments.detector
    accept = settings.accept if arguments.accept is None else arguments.accept
    return Decision(detector.decision, accept, arguments.fdr)


def _results_folder(arguments: EvaluationArguments, images: Path) -> Path:
    """The folder of the results; without `--output`, the folder of all image folders' results."""
    if arguments.output is None:
        return results_folder(arguments.ckpt) / "images"
    if os.path.realpath(arguments.output) == os.path.realpath(images):
        raise UserError(
            f"--output {arguments.output} is the folder of --images: name another folder, which "
            "may lie inside it"
        )
    return Path(arguments.output)
