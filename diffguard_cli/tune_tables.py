"""The tables that `diffguard tune` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from diffguard.printing import say
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.fusion import FusionSettings
from diffguard_cli.baseline_search import Search
from diffguard_cli.one_standard_error import Candidate, Ranking
from diffguard_cli.tune_trial import Choice, Trial, rank_trials

# Number of rows of a ranking to print.
MAX_ROWS = 8
GRID_COLUMNS = ("steps", "depth", "scale", "passes", "seconds", "highest AUROC", "distances")
_RULE_COLUMNS = ("AUROC", "error of the difference", "chosen")

Item = TypeVar("Item")


def print_row(cells: Sequence[str]) -> None:
    """Print a row of a Markdown table."""
    say("| " + " | ".join(cells) + " |")


def print_header(cells: Sequence[str]) -> None:
    """Print the header of a Markdown table, after an empty line."""
    say("")
    print_row(cells)
    say("|" + " --- |" * len(cells))


def print_searches(searches: Sequence[Search]) -> None:
    """Print the values of the baselines' hyper-parameters."""
    if not searches:
        return
    print_header(["baseline", "hyper-parameter", *_RULE_COLUMNS])
    for search in searches:
        for candidate in sorted(search.ranking.candidates, key=lambda c: c.choice):
            label = [search.baseline, f"{search.key} {candidate.choice}"]
            print_row([*label, *_rule_cells(candidate, search.ranking)])


def print_parts(title: str, ranking: Ranking[list[str]]) -> None:
    """Print the best sets of scores and the chosen one."""
    print_header([title, *_RULE_COLUMNS])
    for candidate in _shown(ranking):
        print_row([", ".join(candidate.choice), *_rule_cells(candidate, ranking)])


def print_trial(trial: Trial) -> None:
    """Print a combination of the grid, with the distances of the highest AUROC."""
    best = rank_trials([trial]).candidates[0]
    passes, seconds = f"{trial.passes.mean():.0f}", f"{trial.seconds:.0f}"
    distance = ", ".join(best.choice.distance)
    print_row([*_setting_cells(trial.settings), passes, seconds, f"{best.auroc:.4f}", distance])


def print_choices(ranking: Ranking[Choice]) -> None:
    """Print the best combinations of settings and distances, and the chosen one."""
    columns = (*GRID_COLUMNS[:3], "distances of diffguard", "passes per ID image")
    print_header([*columns, *_RULE_COLUMNS])
    for candidate in _shown(ranking):
        choice = candidate.choice
        cells = [*_setting_cells(choice.settings), ", ".join(choice.distance)]
        print_row([*cells, f"{candidate.cost[0]:.1f}", *_rule_cells(candidate, ranking)])


def print_bands(ranking: Ranking[FusionSettings]) -> None:
    """Print the bands of a cascade, the most passes first."""
    print_header(["fusion as a cascade: band", "passes per ID image", *_RULE_COLUMNS])
    for candidate in sorted(ranking.candidates, key=lambda c: c.cost, reverse=True):
        fusion = candidate.choice
        band = str(fusion.band) if fusion.is_cascade else "none (rule mean)"
        print_row([band, f"{candidate.cost[0]:.1f}", *_rule_cells(candidate, ranking)])


def _setting_cells(settings: DetectorSettings) -> list[str]:
    depth, scale = settings.inversion.depth, settings.guidance.scale
    return [str(settings.sampler.steps), f"{depth:g}", f"{scale:g}"]


def _shown(ranking: Ranking[Item]) -> list[Candidate[Item]]:
    shown = ranking.candidates[:MAX_ROWS]
    return [*shown, *([] if ranking.best in shown else [ranking.best])]


def _rule_cells(candidate: Candidate[Item], ranking: Ranking[Item]) -> list[str]:
    mark = "yes" if candidate is ranking.best else ""
    return [f"{candidate.auroc:.4f}", f"{candidate.error:.4f}", mark]
