"""The command `evaluate`: score ID and OOD sets or a folder of images, or report again."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffguard.errors import UserError
from diffguard.storage.paths import user_path
from diffguard_cli.arguments import EvaluationArguments, typed
from diffguard_cli.evaluation_options import (
    add_checkpoint_arguments,
    add_model_arguments,
    add_result_arguments,
    add_scores_arguments,
)
from diffguard_cli.parser import Parser, parse
from diffguard_cli.program import command_line

if TYPE_CHECKING:
    from datamodules.ood import OODDataModule

# An import path, or an architecture such as `timm/resnet18.a1_in1k`.
_TRUSTED = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def build_parser() -> Parser:
    """The parser of the command line."""
    from datamodules.config import DataConfig
    from diffguard.training.trainer_config import TrainerConfig
    from diffguard_cli.detector_options import add_detector_options

    parser = Parser(
        "Score ID and OOD sets or your own images with a detector checkpoint.",
        prog=command_line("evaluate"),
        usage="(--ckpt CKPT … [--images PATH …] | --scores DIR …) [--KEY VALUE …]",
    )
    add_checkpoint_arguments(parser)
    add_scores_arguments(parser)
    add_result_arguments(parser)
    add_model_arguments(parser)
    parser.add_class_arguments(DataConfig, "data")
    add_detector_options(parser)
    parser.add_argument("--trainer", type=TrainerConfig, default=TrainerConfig())
    return parser


def main(argv: Sequence[str]) -> int:
    """Evaluate a detector, or report on the score tables of earlier evaluations.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: If the command line, the checkpoint, the data or the results are wrong.
    """
    options = _preliminary_options(argv)
    if options.help:
        parse(build_parser(), argv)
    if options.scores is not None:
        if options.ckpt is not None:
            raise UserError("--scores reports from score tables alone: leave out --ckpt")
        from diffguard_cli.score_reports import report_scores

        return report_scores(argv, _command(argv))
    if not options.ckpt:
        raise UserError("--ckpt is missing: name the detector.ckpt that training wrote")
    content, arguments = _arguments(argv, options.ckpt[0])
    if len(options.ckpt) == 1 and not arguments.seeds:
        return _evaluate(content, arguments)
    if arguments.images:
        raise UserError("--images are judged by one detector: give one --ckpt")
    return _evaluate_several(argv, options.ckpt, arguments)


def _evaluate_several(
    argv: Sequence[str], ckpts: Sequence[str], arguments: EvaluationArguments
) -> int:
    """Evaluate each checkpoint, or one with each seed, and report over the seeds."""
    from diffguard_cli.evaluation_seeds import announce, planned_runs, report_seeds

    runs = planned_runs(ckpts, arguments.seeds)
    folders = [run.folder(arguments.output) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        announce(run, folder)
        content, of_run = _arguments(argv, run.ckpt)
        _evaluate(content, replace(of_run, seed=run.seed, output=str(folder)))
    if not arguments.dry_run:
        report_seeds(folders, folders[0].parent if arguments.seeds or arguments.output else None)
    return 0


def _arguments(argv: Sequence[str], ckpt: str) -> tuple[dict[str, Any], EvaluationArguments]:
    """The content of a checkpoint, and the command line on top of its config."""
    from diffguard.checkpoint.file import read_checkpoint
    from diffguard_cli.detector_options import instantiate
    from diffguard_cli.stored_config import precision_of_calibration, stored_config
    from diffguard_cli.unused_options import check_evaluation_options

    parser = build_parser()
    content = read_checkpoint(user_path(ckpt, "--ckpt"))
    namespace = parse(parser, argv, {**stored_config(content, ckpt), "ckpt": [ckpt]}, ckpt)
    options = instantiate(parser, namespace)
    options["ckpt"], options["seed"] = str(user_path(ckpt, "--ckpt")), None
    options["command"] = _command(argv)
    options["trainer"] = precision_of_calibration(options["trainer"], content["config"])
    arguments = typed(EvaluationArguments, options)
    _check(arguments)
    check_evaluation_options(argv, arguments)
    _check_images(content, arguments.data)
    return content, arguments


def _evaluate(content: Mapping[str, Any], arguments: EvaluationArguments) -> int:
    if arguments.dry_run:
        return _print_cost(content, arguments)
    if arguments.images:
        from diffguard_cli.evaluation_images import score_images

        return score_images(content, arguments)
    from diffguard_cli.evaluation_sets import score_sets

    return score_sets(content, arguments)


def _check(arguments: EvaluationArguments) -> None:
    """Check the command line before a model is built."""
    from diffguard.scores.conformal import check_share
    from diffguard.settings.image_size import check_image_size

    if arguments.fuse:
        raise UserError("--fuse needs --scores: evaluate first, then fuse the scores of the folder")
    if arguments.accept is not None and arguments.fdr is not None:
        raise UserError("--accept and --fdr are two rules of decision: give one of them")
    for name, share in (("--accept", arguments.accept), ("--fdr", arguments.fdr)):
        if share is not None:
            check_share(share, name)
    if isinstance(arguments.panels, int) and arguments.panels < 0:
        raise UserError(f"--panels must be at least 0, got {arguments.panels:,}")
    for name in arguments.trusted:
        if not _TRUSTED.fullmatch(name):
            raise UserError(
                f"--trusted {name!r} is not the name of a class or an architecture: expected "
                "my_module.Net or timm/resnet18, several as --trusted a.Net --trusted b.Net"
            )
    check_image_size(arguments.detector.reconstruction_distances, arguments.data.image_size)


def _check_images(content: Mapping[str, Any], data: OODDataModule) -> None:
    """Check that images and classes are those of the detector."""
    image, names = content["image"], content["classifier"]["spec"].get("class_names")
    if (data.image_size, data.channels) != (image["size"], image["channels"]):
        raise UserError(
            f"data.image_size {data.image_size:,} and data.channels {data.channels} differ from "
            f"those of the detector, {image['size']:,} and {image['channels']}: leave them out, or "
            "train a detector with them"
        )
    if names and list(data.class_names) != names and sorted(data.class_names) == sorted(names):
        raise UserError(
            "data.class_names are in another order than the detector's classes "
            f"({', '.join(names[:5])}{', …' if len(names) > 5 else ''}): leave them out"
        )


def _command(argv: Sequence[str]) -> str:
    """The command line, for the shell."""
    return shlex.join([*command_line("evaluate").split(), *argv])


def _preliminary_options(argv: Sequence[str]) -> Namespace:
    """The options that determine how the command line is parsed."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--ckpt", nargs="*")
    parser.add_argument("--scores", nargs="*")
    return parser.parse_known_args(list(argv))[0]


def _print_cost(content: Mapping[str, Any], arguments: EvaluationArguments) -> int:
    from diffguard.checkpoint.build import specs_of
    from diffguard.cost import dry_run
    from diffguard.training.precision import weight_dtype
    from diffguard_cli.planned_cost import print_cost

    cost = dry_run(
        *specs_of(content),
        arguments.detector,
        dtype=weight_dtype(arguments.trainer.precision),
        trusted=tuple(arguments.trusted),
    )
    print_cost(cost)
    return 0
