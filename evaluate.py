"""Score ID and OOD sets, or a folder of images, with a detector checkpoint.

`python evaluate.py --ckpt runs/…/detector.ckpt` needs nothing but the checkpoint;
`python evaluate.py --scores runs/…/evaluation` nothing but the score tables.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diffguard_cli.interrupts import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the next import takes seconds

from diffguard.printing import say
from diffguard.storage.paths import user_path
from diffguard_cli.parser import SKIPPED_FILES, Parser, UserError, parse, run

if TYPE_CHECKING:
    from diffguard.detector import Detector
    from diffguard_cli.scoring import ScoringRun

# Settings that make the networks faster, and change a score by rounding errors alone.
_FASTER = ("compile", "channels_last")


def build_parser() -> Parser:
    """The command line of evaluation."""
    from datamodules.ood import OODDataModule
    from diffguard.settings.detector import DetectorSettings
    from lightning_modules.trainer import TrainerConfig

    parser = Parser("Score ID and OOD sets, or a folder of images, with a detector checkpoint.")
    parser.add_argument("--ckpt", type=str, required=True, help="the detector.ckpt of train.py")
    _add_scores_arguments(parser)
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder for the results; by default `evaluation` (or `images`) beside the checkpoint, "
        "or that of --scores",
    )
    parser.add_argument(
        "--images", type=str | None, default=None, help="score the images in this folder instead"
    )
    parser.add_argument(
        "--accept",
        type=float | None,
        default=None,
        help="share of ID images that the threshold accepts (default: detector.accept)",
    )
    parser.add_argument(
        "--trusted",
        type=list[str] | str,
        default=[],
        help="a class outside the known libraries that the checkpoint may name, by import path, or "
        "an architecture whose arguments you trust; several as '[a.Net, timm/b]'",
    )
    parser.add_argument(
        "--diffusion_model",
        type=str | None,
        default=None,
        help="where a diffusion model that the checkpoint refers to lies now, if it was moved",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print parameters, weight memory and network passes per image, and score nothing",
    )
    parser.add_argument("--panels", type=int, default=6, help="images per panel in TensorBoard")
    parser.add_class_arguments(OODDataModule, "data")
    parser.add_argument("--detector", type=DetectorSettings, default=DetectorSettings())
    parser.add_argument("--trainer", type=TrainerConfig, default=TrainerConfig())
    return parser


def main(argv: Sequence[str]) -> int:
    """Evaluate; returns the exit code."""
    known, _ = _first_look().parse_known_args(list(argv))
    if known.scores and not known.help:
        return _report_tables(argv, known.ckpt)
    if known.ckpt is None and not known.help:
        raise UserError("--ckpt is missing: name the detector.ckpt that train.py wrote")
    parser = build_parser()
    if known.help:
        parse(parser, argv)

    from diffguard.checkpoint.file import read_checkpoint
    from diffguard_cli.stored_config import stored_config

    content = read_checkpoint(user_path(known.ckpt, "--ckpt"))
    stored = yaml.safe_dump(stored_config(content, known.ckpt), sort_keys=False)
    namespace = parse(parser, ["--config", stored, *argv])
    objects = parser.instantiate(namespace)
    if objects.fuse:
        raise UserError("--fuse goes with --scores: evaluate first, then fuse the scores")
    if objects.accept is not None and not 0 < objects.accept < 1:
        raise UserError(f"--accept must lie between 0 and 1, got {objects.accept:g}")
    if objects.panels < 0:
        raise UserError(f"--panels must be at least 0, got {objects.panels}")
    if objects.dry_run:
        return _dry_run(content, objects)
    if objects.images is not None:
        return _score_folder(content, objects)
    return _score_sets(content, objects)


def _first_look() -> Any:
    from argparse import ArgumentParser

    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--ckpt", nargs="?")
    parser.add_argument("--scores", nargs="*")
    return parser


def _add_scores_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--scores",
        type=str,
        nargs="+",
        default=[],
        help="make results anew from these evaluation folders alone, without a model; several "
        "must be runs of the same data and are joined",
    )
    parser.add_argument(
        "--fuse",
        type=dict[str, list[str]],
        default={},
        help="with --scores: further fusions, as in --fuse.mine '[diffguard, msp]'",
    )


def _report_tables(argv: Sequence[str], ckpt: str | None) -> int:
    """Results from score tables alone; no model is built or read."""
    if ckpt is not None:
        raise UserError("--scores makes results from score tables alone: leave --ckpt away")
    parser = Parser("Make results anew from evaluation folders.")
    _add_scores_arguments(parser)
    parser.add_argument("--output", type=str | None, default=None)
    found = parse(parser, argv)
    if len(found.scores) > 1 and found.output is None:
        raise UserError("--output is missing: name the folder for the results of several runs")

    from diffguard.report.publish import report_again

    folders = [user_path(folder, "--scores") for folder in found.scores]
    report_again(folders, found.fuse, Path(found.output) if found.output else folders[0])
    return 0


def _dry_run(content: dict[str, Any], objects: Any) -> int:
    from diffguard.checkpoint.build import specs_of
    from diffguard.cost import dry_run, format_cost
    from diffguard.storage.arguments import consented
    from lightning_modules.trainer import weight_dtype

    cost = dry_run(
        *specs_of(content),
        objects.detector,
        dtype=weight_dtype(objects.trainer),
        trusted=consented(objects.trusted),
    )
    say(*format_cost(cost).splitlines())
    return 0


def _detector(content: dict[str, Any], objects: Any) -> tuple[Detector, list[str]]:
    """The checkpoint's detector, and the settings for which it must be calibrated anew."""
    from diffguard.scores.calibration import Calibration
    from diffguard.settings.detector import DECIDING, to_dict
    from lightning_modules.trainer import cast_weights

    asked, stored = to_dict(objects.detector), content["settings"]
    fixed = (*DECIDING, *_FASTER)
    changed = [key for key in asked if key not in fixed and asked[key] != stored.get(key)]
    combines = bool(changed) and _only_combines(content, objects.detector, changed)
    detector = Detector.from_checkpoint(
        content,
        settings=None if changed and not combines else asked,
        trusted=objects.trusted,
        folder=Path(objects.ckpt).parent,
        diffusion=objects.diffusion_model,
    )
    cast_weights(detector.denoiser, objects.trainer)
    if combines:
        scores = content["calibration"]["scores"]
        plain = {name: scores[name] for name in detector.score_names(derived=False)}
        detector.calibration = Calibration.fit(plain, detector.settings.fusion_rule())
        changed = []
    return detector, changed


def _only_combines(content: dict[str, Any], settings: Any, changed: list[str]) -> bool:
    """Whether changed settings only choose among the checkpoint's scores and combine them."""
    from diffguard.settings.detector import COMBINING, score_names

    names = score_names(settings, derived=False)
    return set(changed) <= set(COMBINING) and set(names) <= set(content["calibration"]["scores"])


def _calibrate_again(
    scoring: ScoringRun, content: dict[str, Any], objects: Any, changed: str
) -> None:
    """Give a run a detector with other settings than the checkpoint's."""
    from diffguard_cli.calibrate import calibrated
    from diffguard_cli.run import Run

    old, folder = scoring.detector, scoring.folder
    current = Run(folder, objects.data, objects.trainer, old.seed, content["config"])
    current.say(f"detector.{changed} differs from the checkpoint's: calibrating again")
    models = (old.classifier, old.denoiser, old.noisy_classifier)
    identity = {"checkpoint": scoring.identity["checkpoint"]}
    same_images = objects.detector.reference_images == old.settings.reference_images
    scoring.detector = calibrated(
        current,
        objects.detector,
        *models,
        "calibrate",
        folder,
        identity,
        reference=old.reference if same_images else None,
    )


def _score_sets(content: dict[str, Any], objects: Any) -> int:
    from diffguard.checkpoint.file import library_versions
    from diffguard.report.publish import report
    from diffguard.report.scored_run import keep_run, read_run
    from diffguard.settings.detector import to_dict
    from diffguard.storage.files import file_hash
    from diffguard_cli.evaluation import read_together
    from diffguard_cli.panels import panels
    from diffguard_cli.scoring import ScoringRun
    from lightning_modules.trainer import scoring_trainer

    detector, changed = _detector(content, objects)
    beside = Path(objects.ckpt).parent
    output = Path(objects.output or beside / "evaluation")
    data = objects.data
    data.prepare_data()
    if len(data.groups) < 2:
        raise UserError(
            "there is no OOD set to compare the ID test images with: name one with "
            "--data.ood.far.NAME FOLDER, or score a folder of images with --images FOLDER"
        )
    data.check_labels(data.evaluation_sets("test")[0], "test", detector.classifier.num_classes)
    trainer = scoring_trainer(objects.trainer, "evaluate")
    identity = {
        "checkpoint": file_hash(Path(objects.ckpt)),
        "groups": data.groups,
        "precision": objects.trainer.precision,
    }
    scoring = ScoringRun(
        detector,
        data,
        data.stream("test"),
        output,
        identity,
        derive=True,
        settings=objects.detector,
        threads=objects.trainer.threads,
    )
    if changed:
        scoring.check(trainer)
        _calibrate_again(scoring, content, objects, changed[0])
    detector = scoring.detector
    table, metrics = read_together(scoring.run(trainer), data.groups, trainer)
    if trainer.is_global_zero:
        settings = {
            "config": {**content["config"], "detector": to_dict(detector.settings)},
            "seed": detector.seed,
            "batch_size": scoring.batch_size,
            "libraries": library_versions(),
            "device": str(detector.device),
            **scoring.identity,
        }
        keep_run(output, detector.calibration.scores, settings, data.left_out)
        drawn = panels(scoring, table, objects.panels)
        tensorboard = (output if objects.output else beside) / "tensorboard"
        report(read_run(output, table), output, tensorboard, metrics=metrics, panels=drawn)
    return 0


def _score_folder(content: dict[str, Any], objects: Any) -> int:
    """Verdicts on a folder of images, without `--output` in a folder of its name."""
    from diffguard.methods.checks import check_unlabelled
    from diffguard.report.verdicts import report_images
    from diffguard.score_table.table import ScoreTable
    from diffguard.storage.files import file_hash
    from diffguard_cli.scoring import ScoringRun, free_run
    from lightning_modules.trainer import scoring_trainer

    check_unlabelled(objects.detector)
    images, output = Path(objects.images), objects.output
    if output is not None and os.path.realpath(output) == os.path.realpath(images):
        raise UserError(
            f"--output {output} is the folder of --images: name another for the results, which "
            "may lie in it"
        )
    data = objects.data
    results = Path(objects.ckpt).parent / "images" if output is None else Path(output)
    stream = data.folder_stream(images, without=[results])
    detector, changed = _detector(content, objects)
    trainer = scoring_trainer(objects.trainer, "score images")
    identity = {
        "checkpoint": file_hash(Path(objects.ckpt)),
        "precision": objects.trainer.precision,
    }

    def run_in(folder: Path) -> ScoringRun:
        return ScoringRun(
            detector,
            data,
            stream,
            folder,
            identity,
            derive=True,
            settings=objects.detector,
            threads=objects.trainer.threads,
        )

    if output is None:
        name = Path(os.path.realpath(images)).name or "root"
        scoring = free_run(results / name, trainer, run_in)
    else:
        scoring = run_in(results)
    if changed:
        scoring.check(trainer)
        _calibrate_again(scoring, content, objects, changed[0])
    path = scoring.run(trainer)
    if not trainer.is_global_zero:
        return 0
    table = ScoreTable.read(path)
    judge = scoring.detector
    skipped = report_images(
        table,
        scoring.folder,
        judge.require_calibration(),
        judge.classifier.class_names,
        judge.settings.decision,
        judge.settings.accept if objects.accept is None else objects.accept,
    )
    return SKIPPED_FILES if skipped else 0


if __name__ == "__main__":
    run(main, sys.argv[1:])
