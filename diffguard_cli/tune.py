"""The command `tune`: choose a detector's settings on validation sets.

    diffguard tune runs/demo/detector.ckpt --output tuned.yaml

The command scores the ID and OOD *validation* sets of the checkpoint's config; no test set is
opened. It chooses, in this order:

1. the baselines' hyper-parameters, by the AUROC of their baseline;
2. steps, depth, guidance scale and distances, by the AUROC of `diffguard`. A reconstruction can
   differ from its image in the pixels or in the classifier's output, so `diffguard` is one
   distance, or the mean of one distance of each kind;
3. the baselines of `fusion` (`fused`), and those of `fusion_baselines` (`comparator`), which are
   the best ones without DiffGuard;
4. the band of a cascade (`fusion`). It is always printed, and part of the choice with `--rule
   cascade`.

AUROC is averaged over the OOD validation sets. All choices follow the one-standard-error rule of
`one_standard_error.py`: the fewest network passes, the fewest parts and the simplest baseline win
ties. The choice is printed as a config, to be used with `--config` in training or evaluation.
`--baselines` limits the command to step 1, for any baselines, without the diffusion model.
`docs/settings.md` has the tables of the default run.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import yaml

from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.errors import UserError, reason_of
from diffguard.pretrained import checkpoint_file
from diffguard.printing import say
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.fusion import FusionSettings, Rule
from diffguard.settings.plain import from_dict, to_dict
from diffguard.storage.files import replace_file
from diffguard.storage.paths import user_path
from diffguard_cli.bands import rank_bands
from diffguard_cli.baseline_search import check_searchable, search
from diffguard_cli.parser import Parser, parse
from diffguard_cli.rankings import pairs_of_kinds, rank_comparators, rank_fused
from diffguard_cli.tune_tables import (
    GRID_COLUMNS,
    print_bands,
    print_choices,
    print_header,
    print_parts,
    print_searches,
    print_trial,
)
from diffguard_cli.tune_trial import rank_trials, run_trial, trial_settings
from diffguard_cli.validation import best_device, validation_data

# Shares of the schedule.
DEPTHS = (0.3, 0.6, 0.9)
# A scale of 1 is classifier-free guidance without effect.
SCALES = (1.5, 3.0)
STEPS = (5, 10)
# Options that `--baselines` leaves without effect, and their defaults.
_GRID = {"steps": list(STEPS), "depths": list(DEPTHS), "scales": list(SCALES), "rule": None}


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
    content = read_checkpoint(checkpoint_file(user_path(grid.ckpt, "CKPT")))
    _check_device(grid.device)
    if grid.baselines is None:
        overlay = _tune(content, grid)
    else:
        overlay = _tune_only_baselines(content, grid)
    text = yaml.safe_dump(overlay, sort_keys=False, default_flow_style=None)
    say("", *text.splitlines())
    if output is not None:
        with replace_file(output) as path:
            path.write_text(text, encoding="utf-8")
    return 0


def _tune(content: Mapping[str, Any], grid: Namespace) -> dict[str, Any]:
    """Score the grid and print the tables; returns the choice as a config."""
    _check_grid(content["settings"], grid)
    data = validation_data(content["config"]["data"], grid.limit)
    detector = Detector.from_checkpoint(content).to(grid.device)
    tuned = _tune_baselines(detector, data, detector.settings.baselines)
    print_header(GRID_COLUMNS)
    trials = []
    for steps, depth, scale in itertools.product(grid.steps, grid.depths, grid.scales):
        settings = {**trial_settings(content["settings"], steps, depth, scale), **tuned}
        detector = Detector.from_checkpoint(content, settings=settings).to(grid.device)
        trial = run_trial(detector, data)
        trials.append(trial)
        print_trial(trial)
    choices = rank_trials(trials)
    best = choices.best.choice
    table = best.trial.table
    fusions = rank_fused(table, best.settings)
    comparators = rank_comparators(table, best.settings)
    chosen = replace(best.settings, fused=fusions.best.choice, comparator=comparators.best.choice)
    bands = rank_bands(table, chosen, best.passes)
    print_choices(choices)
    print_parts("fusion of these distances with baselines", fusions)
    print_parts("fusion_baselines, without diffguard", comparators)
    print_bands(bands)
    has_band = _has_band(grid.rule, from_dict(content["settings"]).fusion)
    return _overlay(chosen, tuned, bands.best.choice if has_band else None)


def _tune_only_baselines(content: Mapping[str, Any], grid: Namespace) -> dict[str, Any]:
    """Print the hyper-parameters of some baselines; returns the chosen ones as a config."""
    check_searchable(grid.baselines)
    for key, default in _GRID.items():
        if getattr(grid, key) != default:
            raise UserError(
                f"--{key} has no effect with --baselines, which searches hyper-parameters of "
                "baselines only: leave one of them out"
            )
    data = validation_data(content["config"]["data"], grid.limit)
    detector = Detector.from_checkpoint(content).to(grid.device)
    return {"detector": _tune_baselines(detector, data, grid.baselines)}


def _tune_baselines(
    detector: Detector, data: OODDataModule, names: Sequence[str]
) -> dict[str, float]:
    """Print the values of the baselines' hyper-parameters; returns the chosen ones."""
    searches = search(detector, data, names)
    print_searches(searches)
    return {search.key: search.ranking.best.choice for search in searches}


def _has_band(rule: Rule | None, fusion: FusionSettings) -> bool:
    """Whether the band is part of the choice; a budget of the checkpoint determines its own."""
    if rule is None:
        return fusion.is_cascade and fusion.budget is None
    return rule == "cascade"


def _overlay(
    settings: DetectorSettings, tuned: Mapping[str, float], fusion: FusionSettings | None
) -> dict[str, Any]:
    """A config that sets what was chosen; the rule of fusion only if it was among the choices."""
    plain = to_dict(settings)
    form = plain["guidance"]
    return {
        "detector": {
            "sampler": {"steps": plain["sampler"]["steps"]},
            "inversion": {"depth": plain["inversion"]["depth"]},
            form: {"scale": plain[form]["scale"]},
            **{key: plain[key] for key in ("distance", "fused", "comparator", *tuned)},
            **({} if fusion is None else {"fusion": asdict(fusion)}),
        }
    }


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both
        raise UserError(f"--device {device} cannot be used: {reason_of(error)}") from error


def _check_grid(original: Mapping[str, Any], grid: Namespace) -> None:
    """Check the settings of the whole grid before anything is scored."""
    for values in itertools.product(grid.steps, grid.depths, grid.scales):
        settings = from_dict(trial_settings(original, *values))
    if not any(pairs_of_kinds(settings)) or not settings.baselines:
        raise UserError(
            "the detector has nothing to choose from: expected a distance of classifier outputs "
            "and one of images in detector.distances, and a baseline in detector.baselines"
        )
    if grid.rule is not None:
        from_dict({**original, "fusion": {"rule": grid.rule}})


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
        default=_GRID["steps"],
        help="numbers of denoising steps to try",
    )
    parser.add_argument(
        "--depths",
        type=float,
        nargs="+",
        default=_GRID["depths"],
        help="depths of the inversion to try, as shares of the schedule",
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=_GRID["scales"],
        help="scales of the guidance to try",
    )
    parser.add_argument(
        "--rule",
        type=Rule | None,
        default=None,
        help="rule of the fusion; with cascade, its band is part of the choice; defaults to that "
        "of the checkpoint",
    )
    parser.add_argument(
        "--baselines",
        type=str,
        nargs="+",
        default=None,
        help="search the hyper-parameters of these baselines only, without the diffusion model",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="file for the choice, a config for --config"
    )
    parser.add_argument("--device", default=best_device(), help="a device of torch")
    return parser
