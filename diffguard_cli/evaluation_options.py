"""Options of the command `evaluate` besides the sections of the config."""

from __future__ import annotations

from typing import Literal

from diffguard_cli.parser import Parser


def add_checkpoint_arguments(parser: Parser) -> None:
    """Add the options that name the detectors."""
    parser.add_argument(
        "--ckpt",
        type=str,
        nargs="+",
        required=True,
        help="detector.ckpt of a training run; several are trainings with different seeds: each is "
        "evaluated, and the mean ± standard deviation is reported",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[],
        help="seeds of the noise that one detector draws: it is calibrated and evaluated with each "
        "of them; not the seed of a training",
    )


def add_scores_arguments(parser: Parser) -> None:
    """Add the options that report again from score tables."""
    parser.add_argument(
        "--scores",
        type=str,
        nargs="+",
        default=[],
        help="report again from the score tables of these evaluation folders, without a model; "
        "several must be runs on the same data, and are joined; a published scores.csv alone needs "
        "--groups",
    )
    parser.add_argument(
        "--fuse",
        type=dict[str, list[str]],
        default={},
        help="with --scores: additional fusions, such as --fuse.mine '[diffguard, msp]'",
    )
    parser.add_argument(
        "--groups",
        type=dict[str, str],
        default={},
        help="with --scores of tables without manifest.json: the group of each set, such as "
        "--groups.digits id --groups.letters far",
    )
    parser.add_argument(
        "--over_seeds",
        action="store_true",
        help="with --scores: the folders differ in their seed only; print mean ± standard "
        "deviation of the AUROC, and test DiffGuard's gain over the baselines",
    )


def add_result_arguments(parser: Parser) -> None:
    """Add the options that decide what is scored, judged and shown."""
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder of the results; default: `evaluation` or `images` beside the checkpoint, or "
        "the folder of --scores",
    )
    parser.add_argument(
        "--images",
        type=str,
        nargs="+",
        default=[],
        metavar="PATH",
        help="score these images: files, folders, and patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="with --images: write the pictures and a sentence that explain each verdict",
    )
    parser.add_argument(
        "--accept",
        type=float | None,
        default=None,
        help="with --images: share of ID images to accept (default: detector.accept)",
    )
    parser.add_argument(
        "--fdr",
        type=float | None,
        default=None,
        help="with --images, instead of --accept: flag images so that on average at most this "
        "share of the flagged ones is ID",
    )
    parser.add_argument(
        "--drift",
        action="store_true",
        help="with --images: test whether the images as a whole differ from the ID validation "
        "images",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the command, and only print parameters, weight memory and network passes per "
        "image",
    )
    parser.add_argument(
        "--panels",
        type=int | Literal["all"] | None,
        default=None,
        help="images that are reconstructed again for pictures: per panel of an evaluation "
        "(default: 6), of --images (default: 24), or all that report.html shows",
    )
    add_full_table(parser)


def add_full_table(parser: Parser) -> None:
    """Add the option that prints the whole table."""
    parser.add_argument(
        "--full_table",
        action="store_true",
        help="print every score on every set instead of the main scores on near and far OOD",
    )


def add_model_arguments(parser: Parser) -> None:
    """Add the options that decide how the checkpoint's models are loaded."""
    parser.add_argument(
        "--trusted",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        help="import path of a class outside the known libraries that the checkpoint may name, or "
        "an architecture whose arguments you trust; may be given repeatedly",
    )
    parser.add_argument(
        "--diffusion_model",
        type=str | None,
        default=None,
        help="new path of the diffusion model that the checkpoint refers to, if it was moved",
    )
