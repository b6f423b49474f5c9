"""The command `tune`: choose distances, depth, scale and steps on validation sets.

    diffguard tune runs/demo/detector.ckpt

The command scores the ID and OOD *validation* sets of the checkpoint's config with every
combination of a grid of steps, depths and scales. A reconstruction can differ from its image in the
pixels or in the classifier's output, so `diffguard` is the mean of one distance of each kind. For
each combination, the command selects the pair of distances with the highest AUROC, averaged over
the OOD validation sets, and then the baselines that give `fusion` the highest AUROC. The best
combination has the highest AUROC of `diffguard`. No test set is opened. `docs/settings.md` has the
tables of the default run.
"""

from __future__ import annotations

import itertools
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.errors import UserError, reason_of
from diffguard.methods.items import Scored, items_of
from diffguard.printing import say
from diffguard.settings.plain import from_dict
from diffguard.storage.paths import user_path
from diffguard_cli.parser import Parser, parse
from diffguard_cli.rankings import Ranking, pairs_of_kinds, rank_subsets

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
    """Score the grid and print the tables.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: If the checkpoint or its data cannot be read, or the grid is wrong.
    """
    grid = parse(build_parser(), argv)
    content = read_checkpoint(user_path(grid.ckpt, "CKPT"))
    _check(content["settings"], grid)
    data = validation_data(content["config"]["data"], grid.limit)
    say(_row(COLUMNS), "|" + " --- |" * len(COLUMNS))
    trials = []
    for steps, depth, scale in itertools.product(grid.steps, grid.depths, grid.scales):
        settings = _changed(content["settings"], steps, depth, scale)
        detector = Detector.from_checkpoint(content, settings=settings).to(grid.device)
        trial = _try(detector, data)
        trials.append(trial)
        say(_row([str(steps), f"{depth:g}", f"{scale:g}", *trial.cells()]))
    best = max(trials, key=lambda trial: trial.pairs[0][0])
    _print_ranking("diffguard at the best setting: distances", best.pairs)
    _print_ranking("fusion of the best pair with baselines", best.fusions)
    return 0


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
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--depths", type=float, nargs="+", default=list(DEPTHS))
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--device", default=best_device(), help="default: the accelerator, if any")
    return parser


def validation_data(config: Mapping[str, Any], limit: int | None) -> OODDataModule:
    """The data of a config without its test sets.

    Args:
        config: The `data` section.
        limit: Images per set; None for all.

    Raises:
        UserError: If the config names no OOD validation set.
    """
    if not config.get("ood_validation"):
        raise UserError(
            "the checkpoint's config has no OOD validation set to choose settings on: train with "
            "one in data.ood_validation"
        )
    values = {**config, "limit": limit}
    values["id"] = IDSets(**{**values["id"], "test": None})
    values["ood"] = OODSets()
    return OODDataModule(DataConfig(**values))


def best_device() -> str:
    """CUDA if it is available, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class _Trial:
    """One combination of the grid.

    Attributes:
        passes: Network passes per image.
        seconds: Duration of the scoring.
        pairs: The pairs of distances.
        fusions: The sets of baselines.
    """

    passes: float
    seconds: float
    pairs: Ranking
    fusions: Ranking

    def cells(self) -> list[str]:
        """The cells of the table after steps, depth and scale."""
        cells = [f"{self.passes:.0f}", f"{self.seconds:.0f}"]
        for value, names in (self.pairs[0], self.fusions[0]):
            cells += [f"{value:.4f}", ", ".join(names)]
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
    return _Trial(passes, seconds, *rank_subsets(table, detector.settings))


@torch.inference_mode()
def score_validation(
    detector: Detector, data: OODDataModule
) -> tuple[dict[str, dict[str, np.ndarray]], list[Scored]]:
    """Score the validation sets.

    Args:
        detector: The detector.
        data: The DataModule.

    Returns:
        Set -> score -> `(n,)`, and the scored images.
    """
    stream = detector.stream(data.batch_size, derive=False)
    results: list[Scored] = []
    for batch in data.stream_loader(data.stream("validation")):
        results += stream.push(items_of(batch))
    results += stream.flush()
    names = detector.score_names(derived=False)
    table: dict[str, dict[str, np.ndarray]] = {}
    for images in data.evaluation_sets("validation"):
        rows = [image.row for image in results if image.row.dataset == images.name]
        rows.sort(key=lambda row: row.index)
        table[images.name] = {name: np.array([row.scores[name] for row in rows]) for name in names}
    return table, results


def _print_ranking(title: str, ranking: Ranking) -> None:
    say("", f"| {title} | AUROC |", "| --- | --- |")
    say(*(f"| {', '.join(names)} | {value:.4f} |" for value, names in ranking[:MAX_ROWS]))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
