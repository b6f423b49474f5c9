"""Evaluation of images of the user: a verdict for each image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.prediction_set import matches
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.checks import check_unlabeled
from diffguard.methods.drift import check_drift, drift_of
from diffguard.methods.scorer import Scorer
from diffguard.pretrained import image_folder
from diffguard.printing import say
from diffguard.report.candidates import Candidates, suspicious_first
from diffguard.report.decision import Decision
from diffguard.report.gallery import Gallery, Judge
from diffguard.report.verdicts import list_skipped, report_images
from diffguard.score_table.table import ScoreTable
from diffguard.scores.drift import SAMPLE_SIZE
from diffguard.settings.decision import has_exact_guarantee
from diffguard.storage.paths import user_path
from diffguard_cli.arguments import EvaluationArguments
from diffguard_cli.calibrate import recalibrated
from diffguard_cli.evaluation_detector import (
    identity_of,
    load_detector,
    results_folder,
)
from diffguard_cli.exit_codes import SKIPPED_FILES
from diffguard_cli.free_folder import free_run
from diffguard_cli.image_report import report_on_images
from diffguard_cli.scoring import ScoringRun
from lightning_modules.trainer import scoring_trainer


def score_images(content: Mapping[str, Any], arguments: EvaluationArguments) -> int:
    """Score images and report the verdicts.

    Without `--output`, the results are in `images/NAME` beside the checkpoint, with the name of the
    folder or file, or of the folder that holds all of them.

    Args:
        content: The checkpoint's content.
        arguments: The command line.

    Returns:
        The exit code; 3 if files were skipped.

    Raises:
        UserError: If there are no images, the settings need labels, the decision needs more ID
            validation images, or the folder of the results belongs to another run.
    """
    check_unlabeled(arguments.detector)
    data = arguments.data
    paths = [image_folder(user_path(path, "--images")) for path in arguments.images]
    images = [place for path in paths for place in matches(path)]
    results = _results_folder(arguments, images)
    stream = data.image_stream(images, without=[results])
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
            decision_only=True,
            candidates=lambda scorer: Candidates((), suspicious_first(scorer.decision)),
        )

    if arguments.output is None:
        scoring = free_run(
            results / _name(images), trainer, lambda folder: scoring_in(folder, detector)
        )
    else:
        scoring = scoring_in(results, detector)
    if differences:
        scoring = recalibrated(scoring, scoring_in, content, arguments, differences[0], trainer)
    run = scoring.run(trainer)
    if not trainer.is_global_zero:
        return 0
    scorer, table = scoring.detector, ScoreTable.read(run.table)
    skipped = list_skipped(table)
    decision = _decision(scorer, arguments)
    judge = Judge(scorer.require_calibration(), scorer.classifier.class_names, decision)
    gallery = Gallery(table, judge)
    report_images(gallery, scoring.folder, explain=arguments.explain)
    lines = [_drift(scoring, table)] if arguments.drift else []
    say(*lines)
    report_on_images(scoring, run, gallery, arguments, lines)
    return SKIPPED_FILES if skipped else 0


def _name(images: Sequence[Path]) -> str:
    """The name of the folder of the results."""
    common = os.path.commonpath([os.path.realpath(path) for path in images])
    return Path(common).name or "root"


def _drift(scoring: ScoringRun, table: ScoreTable) -> str:
    """Test for drift with all scores, and with the features of a random choice of images."""
    rows, detector, data = np.flatnonzero(table.valid), scoring.detector, scoring.data
    rng = np.random.default_rng(detector.seed)
    sample = np.sort(rng.permutation(rows)[:SAMPLE_SIZE])
    batches = data.stream_loader(scoring.stream.only(scoring.stream.select[sample]))
    scores = table.scores[detector.decision][rows]
    drift = drift_of(detector, scores, batches, data.read_size)
    count = detector.require_calibration().count
    return f"{drift}; {len(rows):,} images against {count:,} ID validation images"


def _decision(detector: Scorer, arguments: EvaluationArguments) -> Decision:
    settings = arguments.detector
    accept = settings.accept if arguments.accept is None else arguments.accept
    name = detector.decision
    is_exact = has_exact_guarantee(detector.settings, name)
    return Decision(name, accept, arguments.fdr, is_exact=is_exact)


def _results_folder(arguments: EvaluationArguments, images: Sequence[Path]) -> Path:
    """The folder of the results; without `--output`, the folder of the results of all images."""
    if arguments.output is None:
        return results_folder(arguments.ckpt) / "images"
    real = os.path.realpath(arguments.output)
    if any(os.path.realpath(path) == real for path in images):
        raise UserError(
            f"--output {arguments.output} is the folder of --images: name another folder, which "
            "may lie inside it"
        )
    return Path(arguments.output)
