"""Score ID and OOD sets, or a folder of images, with a detector checkpoint.

`python evaluate.py --ckpt runs/…/detector.ckpt` needs nothing but the checkpoint;
`python evaluate.py --scores runs/…/evaluation` nothing but the score tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_modules.cli import SKIPPED_FILES, Parser, UserError, parse, run

if TYPE_CHECKING:
    from diffguard.detector import Detector

# Settings that decide on new images or make the networks faster, but change no score.
_NO_SCORE = ("decision", "accept", "compile", "channels_last")


def build_parser() -> Parser:
    """The command line of evaluation."""
    from datamodules.ood import OODDataModule
    from diffguard.settings import DetectorSettings
    from lightning_modules.settings import TrainerConfig

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
        type=list[str],
        default=[],
        help="import paths of further classes that the checkpoint may name",
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

    from diffguard.checkpoint import read_checkpoint

    content = read_checkpoint(known.ckpt)
    namespace = parse(parser, ["--config", _stored_config(content), *argv])
    objects = parser.instantiate(namespace)
    if objects.fuse:
        raise UserError("--fuse goes with --scores: evaluate first, then fuse the scores")
    if objects.accept is not None and not 0 < objects.accept < 1:
        raise UserError(f"--accept must lie between 0 and 1, got {objects.accept:g}")
    if objects.panels < 0:
        raise UserError(f"--panels must be at least 0, got {objects.panels}")
    if objects.dry_run:
        return _dry_run(content, objects)
    detector = _detector(content, objects)
    folder = Path(objects.ckpt).parent
    if objects.images is not None:
        return _score_folder(detector, objects, folder / "images")
    output = Path(objects.output or folder / "evaluation")
    return _score_sets(detector, objects, content["config"], output, folder)


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

    from lightning_modules.reporting import report_again

    report_again(list(map(Path, found.scores)), found.fuse, Path(found.output or found.scores[0]))
    return 0


def _stored_config(content: dict[str, Any]) -> str:
    """The checkpoint's own sections, as the config that the command line overrides."""
    config = content["config"]
    stored = {
        "data": config["data"],
        "trainer": config["trainer"],
        "detector": content["settings"],
    }
    return yaml.safe_dump(stored, sort_keys=False)


def _dry_run(content: dict[str, Any], objects: Any) -> int:
    from diffguard.checkpoint import specs_of
    from diffguard.dry_run import dry_run, format_cost
    from lightning_modules.trainers import weight_dtype

    cost = dry_run(
        *specs_of(content),
        objects.detector,
        dtype=weight_dtype(objects.trainer),
        trusted=tuple(objects.trusted),
    )
    print(format_cost(cost))  # noqa: T201
    return 0


def _detector(content: dict[str, Any], objects: Any) -> Detector:
    """The checkpoint's detector; calibrated anew where the command line changes its scores."""
    from diffguard.checkpoint import detector_from
    from diffguard.settings import to_dict
    from lightning_modules.trainers import cast_weights

    given = {
        "trusted": objects.trusted,
        "folder": Path(objects.ckpt).parent,
        "diffusion": objects.diffusion_model,
    }
    asked, stored = to_dict(objects.detector), content["settings"]
    changed = [k for k in asked if k not in _NO_SCORE and asked[k] != stored.get(k)]
    if not changed:
        detector = detector_from(content, settings=asked, **given)
        cast_weights(detector.denoiser, objects.trainer)
        return detector
    from lightning_modules.calibration import calibrated
    from lightning_modules.runs import Run

    detector = detector_from(content, **given)
    cast_weights(detector.denoiser, objects.trainer)
    folder = Path(objects.output or Path(objects.ckpt).parent / "evaluation")
    current = Run(folder, objects.data, objects.trainer, detector.seed, content["config"])
    current.say(f"detector.{changed[0]} differs from the checkpoint's: calibrating again")
    models = (detector.classifier, detector.denoiser, detector.noisy_classifier)
    return calibrated(current, objects.detector, *models, "calibrate", folder)


def _score_sets(
    detector: Detector, objects: Any, config: dict[str, Any], output: Path, folder: Path
) -> int:
    from diffguard.checkpoint import library_versions
    from diffguard.scored_run import keep_run, read_run
    from diffguard.settings import to_dict
    from lightning_modules.evaluation import ScoringRun, file_hash
    from lightning_modules.panels import panels
    from lightning_modules.reporting import report
    from lightning_modules.shared_table import read_together
    from lightning_modules.trainers import scoring_trainer

    data = objects.data
    data.prepare_data()
    if len(data.groups) < 2:
        raise UserError(
            "there is no OOD set to compare the ID test images with: name one with "
            "--data.ood.far.NAME FOLDER, or score a folder of images with --images FOLDER"
        )
    trainer = scoring_trainer(objects.trainer, "evaluate")
    identity = {
        "checkpoint": file_hash(Path(objects.ckpt)),
        "groups": data.groups,
        "precision": objects.trainer.precision,
    }
    scoring = ScoringRun(detector, data, data.stream("test"), output, identity, derive=True)
    table, metrics = read_together(scoring.run(trainer), data.groups, trainer)
    if trainer.is_global_zero:
        settings = {
            "config": {**config, "detector": to_dict(detector.settings)},
            "seed": detector.seed,
            "batch_size": scoring.batch_size,
            "libraries": library_versions(),
            "device": str(detector.device),
            **scoring.identity,
        }
        keep_run(output, detector.calibration.scores, settings, data.left_out)
        drawn = panels(scoring, table, objects.panels)
        report(
            read_run(output, table), output, folder / "tensorboard", metrics=metrics, panels=drawn
        )
    return 0


def _score_folder(detector: Detector, objects: Any, beside: Path) -> int:
    """Verdicts on a folder of images, without `--output` in a folder of its name."""
    from diffguard.manifest import continues
    from diffguard.score_table import ScoreTable
    from lightning_modules.evaluation import ScoringRun, file_hash
    from lightning_modules.reporting import report_images
    from lightning_modules.trainers import scoring_trainer

    data = objects.data
    stream = data.folder_stream(objects.images)
    trainer = scoring_trainer(objects.trainer, "score images")
    identity = {
        "checkpoint": file_hash(Path(objects.ckpt)),
        "images": str(Path(objects.images)),
        "precision": objects.trainer.precision,
    }
    given = None if objects.output is None else Path(objects.output)
    for output in [given] if given else _numbered(beside / Path(objects.images).resolve().name):
        scoring = ScoringRun(detector, data, stream, output, identity, derive=True)
        if given or continues(output, scoring.manifest()):
            break
    path = scoring.run(trainer)
    if not trainer.is_global_zero:
        return 0
    skipped = report_images(detector, ScoreTable.read(path), output, objects.accept)
    return SKIPPED_FILES if skipped else 0


def _numbered(folder: Path) -> Iterator[Path]:
    """A folder, and others beside it for images that have changed since."""
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in count(2))


if __name__ == "__main__":
    run(main, sys.argv[1:])
