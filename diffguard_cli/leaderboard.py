"""The command `leaderboard`: results as rows of OpenOOD's leaderboard.

    diffguard leaderboard runs/s0/evaluation runs/s1/evaluation runs/s2/evaluation --arch ResNet18

The rows are printed as CSV in the form of OpenOOD v1.5. Evaluations on other sets, on a part of a
set or on other lists are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.openood_lists import openood_sets
from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.report.leaderboard import (
    POSTPROCESSORS,
    Entry,
    Results,
    evaluator_table,
    leaderboard,
    read_results,
    score_names,
)
from diffguard.storage.files import replace_file
from diffguard.storage.paths import user_path
from diffguard_cli.parser import Parser, parse

BENCHMARKS = ("cifar10", "cifar100", "imagenet200", "imagenet")
_VERIFIED, _UNVERIFIED = "OpenOOD v1.5", "unverified"


def main(argv: Sequence[str]) -> int:
    """Print the rows, and write them if `--output` names a folder.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: If results cannot be read, or are not those of a benchmark of the leaderboard.
    """
    options = parse(build_parser(), argv)
    folders = [user_path(folder, "FOLDER") for folder in options.folders]
    runs = [read_results(folder) for folder in folders]
    sets = _benchmark_sets(folders, runs)
    unverified = [name for run in runs for name in _unverified_sets(run)]
    description = options.description or ""
    if unverified:
        listed = ", ".join(dict.fromkeys(unverified))
        say(f"note: the image lists of {listed} could not be verified", file=sys.stderr)
        description = "; ".join(filter(None, [description, "image lists not verified"]))
    entry = Entry(options.training, options.arch, description, options.outlier_data)
    names = score_names(runs, options.scores)
    rows = leaderboard(runs, names, entry)
    say(*rows.splitlines())
    if options.output is not None:
        folder = user_path(options.output, "--output")
        _write(folder / "leaderboard.csv", rows)
        for name in names:
            table = POSTPROCESSORS.get(name, name).replace("/", "_").replace(" ", "_")
            _write(folder / f"{table}.csv", evaluator_table(runs, name, sets))
    return 0


def _benchmark_sets(folders: Sequence[Path], runs: Sequence[Results]) -> dict[str, tuple[str, ...]]:
    """The OOD sets of the benchmark that all runs evaluate completely.

    Raises:
        UserError: If there is no such benchmark.
    """
    benchmark = runs[0]["id"]["dataset"]
    if benchmark not in BENCHMARKS:
        raise UserError(
            f"{folders[0]} has the ID set {benchmark}, which is not on OpenOOD's leaderboard: "
            f"expected one of {', '.join(BENCHMARKS)} (data.name)"
        )
    expected = openood_sets(benchmark)
    for folder, run in zip(folders, runs, strict=True):
        if run["id"]["dataset"] != benchmark:
            raise UserError(f"{folder} has another ID set than {folders[0]}: evaluate them alike")
        for group, names in expected.items():
            present = {r["dataset"] for r in run["rows"] if r["group"] == group != r["dataset"]}
            if present != set(names):
                raise UserError(
                    f"{folder} has other {group}-OOD sets than OpenOOD's {benchmark}: expected "
                    f"{', '.join(names)}, got {', '.join(sorted(present)) or 'none'}"
                )
        _check_lists(folder, run)
    return expected


def _check_lists(folder: Path, run: Results) -> None:
    """Refuse lists that differ from OpenOOD's, and sets of which only a part is evaluated."""
    counts = {row["dataset"]: row["n_ood"] for row in run["rows"]}
    counts[run["id"]["dataset"]] = run["id"]["n"]
    limit = run["settings"].get("config", {}).get("data", {}).get("limit")
    if limit is not None and limit in counts.values():
        raise UserError(
            f"{folder} evaluates at most {limit:,} images of each set: evaluate all of them, with "
            "--data.limit null"
        )
    for name, images in run["settings"].get("image_lists", {}).items():
        if images["list"] not in (_VERIFIED, _UNVERIFIED):
            raise UserError(
                f"{folder}: the image list of {name} differs from OpenOOD v1.5's: use the lists of "
                "OpenOOD's downloader"
            )
        if name in counts and counts[name] != images["n"]:
            raise UserError(
                f"{folder} evaluates {counts[name]:,} of the {images['n']:,} images of {name}: "
                "evaluate all of them, with --data.limit null"
            )


def _unverified_sets(run: Results) -> list[str]:
    lists = run["settings"].get("image_lists", {})
    names = dict.fromkeys(row["dataset"] for row in run["rows"] if row["dataset"] != row["group"])
    every = [run["id"]["dataset"], *names]
    return [name for name in every if name not in lists or lists[name]["list"] != _VERIFIED]


def _write(path: Path, text: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def build_parser() -> Parser:
    """The command line of `leaderboard`."""
    parser = Parser(
        "Print results as rows of OpenOOD's leaderboard.",
        prog="diffguard leaderboard",
        usage="FOLDER … --arch ARCH [--KEY VALUE …]",
        config=False,
    )
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="+",
        help="evaluation folder; several are trainings with different seeds",
    )
    parser.add_argument(
        "--arch", type=str, required=True, help="the classifier's architecture, such as ResNet18"
    )
    parser.add_argument(
        "--training",
        type=str,
        default="CrossEntropy",
        help="how the classifier was trained, such as PixMix",
    )
    parser.add_argument(
        "--description",
        type=str | None,
        default=None,
        help="further facts, such as '100 epochs'",
    )
    parser.add_argument(
        "--outlier_data", action="store_true", help="the classifier was trained with outliers"
    )
    parser.add_argument(
        "--scores",
        type=str,
        nargs="+",
        default=[],
        help="scores to report (default: all but single distances)",
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder for leaderboard.csv and, for each score, the table of OpenOOD's evaluator",
    )
    return parser
