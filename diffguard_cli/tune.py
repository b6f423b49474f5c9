"""The command `tune`: choose a detector's settings on validation sets.

    diffguard tune runs/demo/detector.ckpt --output tuned.yaml

The command scores the ID and OOD *validation* sets of the checkpoint's config; no test set is
opened. It chooses, in this order:

1. the baselines' hyper-parameters, each with the highest AUROC of its baseline;
2. steps, depth and guidance scale, with the highest AUROC of `diffguard` on a grid. A
   reconstruction can differ from its image in the pixels or in the classifier's output, so
   `diffguard` is one distance, or the mean of one distance of each kind;
3. the baselines of `fusion` (`fused`), and those of `fusion_baselines` (`comparator`), which are
   the best ones without DiffGuard.

AUROC is averaged over the OOD validation sets. Distances and baselines follow the
one-standard-error rule of `rankings.py`. The choice is printed as a config, to be used with
`--config` in training or evaluation. `docs/settings.md` has the tables of the default run.
"""

from __future__ import annotations

import itertools
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import yaml

from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.errors import UserError, reason_of
from diffguard.printing import say
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.plain import from_dict, to_dict
from diffguard.storage.files import replace_file
from diffguard.storage.paths import user_path
from diffguard_cli.baseline_search import best_values, search
from diffguard_cli.parser import Parser, parse
from diffguard_cli.rankings import (
    Ranking,
    Table,
    pairs_of_kinds,
    rank_comparators,
    rank_distances,
    rank_fused,
)
from diffguard_cli.validation import best_device, score_validation, validation_data

# Shares of the schedule.
DEPTHS = (0.3, 0.5, 0.7, 0.9)
# A scale of 1 is classifier-free guidance without effect.
SCALES = (1.5, 3.0)
STEPS = (10,)
# Number of rows of a ranking to print.
MAX_ROWS = 8
COLUMNS = (
    *("steps", "depth", "scale", "passes", "seconds"),
    *("diffguard", "distances", "fusion", "with"),
)


def main(argv: Sequence[str]) -> int:
    """Score the grid, print the tables and the choice.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: If the checkpoint or its data cannot be read, the grid is wrong, or the choice
            cannot be written.
    """
    grid = parse(build_parser(), argv)
    output = None if grid.output is None else user_path(grid.output, "--output")
    content = read_checkpoint(user_path(grid.ckpt, "CKPT"))
    _check(content["settings"], grid)
    data = validation_data(content["config"]["data"], grid.limit)
    tuned = _tune_baselines(content, data, grid.device)
    say("", _row(COLUMNS), "|" + " --- |" * len(COLUMNS))
    trials = []
    for steps, depth, scale in itertools.product(grid.steps, grid.depths, grid.scales):
        settings = {**_changed(content["settings"], steps, depth, scale), **tuned}
        detector = Detector.from_checkpoint(content, settings=settings).to(grid.device)
        trial = _try(detector, data)
        trials.append(trial)
        say(_row([str(steps), f"{depth:g}", f"{scale:g}", *trial.cells()]))
    best = max(trials, key=lambda trial: trial.distances.choice.auroc)
    comparators = rank_comparators(best.table, best.settings)
    _print_ranking("diffguard at the best setting: distances", best.distances)
    _print_ranking("fusion of these distances with baselines", best.fusions)
    _print_ranking("fusion_baselines, without diffguard", comparators)
    chosen = replace(
        best.settings,
        distance=best.distances.choice.names,
        fused=best.fusions.choice.names,
        comparator=comparators.choice.names,
    )
    text = yaml.safe_dump(_overlay(chosen, tuned), sort_keys=False, default_flow_style=None)
    say("", *text.splitlines())
    if output is not None:
        with replace_file(output) as path:
            path.write_text(text, encoding="utf-8")
    return 0


def _tune_baselines(content: Mapping[str, Any], data: OODDataModule, device: str) -> dict[str, int]:
    """Print the trials of the baselines' hyper-parameters; returns the best values."""
    detector = Detector.from_checkpoint(content).to(device)
    trials = search(detector, data)
    best = best_values(trials)
    if trials:
        say("| baseline | hyper-parameter | AUROC | chosen |", "| --- | --- | --- | --- |")
    for trial in trials:
        mark = "yes" if best[trial.key] == trial.value else ""
        say(_row([trial.baseline, f"{trial.key} {trial.value}", f"{trial.auroc:.4f}", mark]))
    return best


def _overlay(settings: DetectorSettings, tuned: Mapping[str, int]) -> dict[str, Any]:
    """A config that sets what was chosen."""
    plain = to_dict(settings)
    form = plain["guidance"]
    return {
        "detector": {
            "sampler": {"steps": plain["sampler"]["steps"]},
            "inversion": {"depth": plain["inversion"]["depth"]},
            form: {"scale": plain[form]["scale"]},
            **{key: plain[key] for key in ("distance", "fused", "comparator", *tuned)},
        }
    }


def _check(original: Mapping[str, Any], grid: Namespace) -> None:
    """Check the device and the settings of the whole grid before anything is scored."""
    try:
        torch.empty(0, device=grid.device)
    except (RuntimeError, AssertionError) as error:  # torch raises both
        raise UserError(f"--device {grid.device} cannot be used: {reason_of(error)}") from error
    for values in itertools.product(grid.steps, grid.depths, grid.scales):
        settings = from_dict(_changed(original, *values))
    if not any(pairs_of_kinds(settings)) or not settings.baselines:
        raise UserError(
            "the detector has nothing to choose from: expected a distance of classifier outputs "
            "and one of images in detector.distances, and a baseline in detector.baselines"
        )


def build_parser() -> Parser:
    """The command line of `tune`."""
    parser = Parser(
        "Choose a detector's distances, depth, scale and steps on validation sets.",
        prog="diffguard tune",
        usage="CKPT [--KEY VALUE …]",
        config=False,
    )
    parser.add_argument("ckpt", metavar="CKPT", help="a detector.ckpt")
    parser.add_argument("--limit", type=int | None, default=None, help="images per set")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=list(STEPS),
        help="numbers of denoising steps to try",
    )
    parser.add_argument(
        "--depths",
        type=float,
        nargs="+",
        default=list(DEPTHS),
        help="depths of the inversion to try, as shares of the schedule",
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=list(SCALES),
        help="scales of the guidance to try",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="file for the choice, a config for --config"
    )
    parser.add_argument("--device", default=best_device(), help="a device of torch")
    return parser


@dataclass(frozen=True)
class _Trial:
    """One combination of the grid.

    Attributes:
        settings: The detector's settings, with the chosen distances.
        table: The scores of the validation sets.
        passes: Network passes per image.
        seconds: Duration of the scoring.
        distances: The ranking of distances.
        fusions: The ranking of sets of baselines.
    """

    settings: DetectorSettings
    table: Table
    passes: float
    seconds: float
    distances: Ranking
    fusions: Ranking

    def cells(self) -> list[str]:
        """The cells of the table after steps, depth and scale."""
        cells = [f"{self.passes:.0f}", f"{self.seconds:.0f}"]
        for choice in (self.distances.choice, self.fusions.choice):
            cells += [f"{choice.auroc:.4f}", ", ".join(choice.names)]
        return cells


def _changed(settings: Mapping[str, Any], steps: int, depth: float, scale: float) -> dict[str, Any]:
    form = settings["guidance"]
    return {
        **settings,
        "sampler": {**settings["sampler"], "steps": steps},
        "inversion": {**settings["inversion"], "depth": depth},
        form: {**settings[form], "scale": scale},
    }


def _try(detector: Detector, data: OODDataModule) -> _Trial:
    start = time.perf_counter()
    table, results = score_validation(detector, data)
    seconds = time.perf_counter() - start
    passes = float(np.mean([image.row.network_passes or 0 for image in results]))
    distances = rank_distances(table, detector.settings)
    settings = replace(detector.settings, distance=distances.choice.names)
    return _Trial(settings, table, passes, seconds, distances, rank_fused(table, settings))


def _print_ranking(title: str, ranking: Ranking) -> None:
    """Print the best candidates and the chosen one."""
    say("", f"| {title} | AUROC | error of the difference | chosen |", "| --- | --- | --- | --- |")
    choice = ranking.choice
    shown = ranking.candidates[:MAX_ROWS]
    for c in [*shown, *([] if choice in shown else [choice])]:
        mark = "yes" if c is choice else ""
        say(_row([", ".join(c.names), f"{c.auroc:.4f}", f"{c.error:.4f}", mark]))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
