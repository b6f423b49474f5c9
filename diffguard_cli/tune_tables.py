"""The tables that `diffguard tune` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from diffguard.printing import say
from diffguard.settings.fusion import FusionSettings
from diffguard_cli.baseline_search import Search
from diffguard_cli.one_standard_error import Candidate, Ranking

# Number of rows of a ranking to print.
MAX_ROWS = 8
GRID_COLUMNS = (
    *("steps", "depth", "scale", "passes", "seconds"),
    *("diffguard", "distances", "fusion", "with"),
)
_RULE_COLUMNS = ("AUROC", "error of the difference", "chosen")

Choice = TypeVar("Choice")


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
    shown = ranking.candidates[:MAX_ROWS]
    for candidate in [*shown, *([] if ranking.best in shown else [ranking.best])]:
        print_row([", ".join(candidate.choice), *_rule_cells(candidate, ranking)])


def print_bands(ranking: Ranking[FusionSettings]) -> None:
    """Print the bands of a cascade, the most passes first."""
    print_header(["fusion as a cascade: band", "passes per ID image", *_RULE_COLUMNS])
    for candidate in sorted(ranking.candidates, key=lambda c: -c.cost):
        fusion = candidate.choice
        band = str(fusion.band) if fusion.is_cascade else "none (rule mean)"
        print_row([band, f"{candidate.cost:.1f}", *_rule_cells(candidate, ranking)])


def _rule_cells(candidate: Candidate[Choice], ranking: Ranking[Choice]) -> list[str]:
    mark = "yes" if candidate is ranking.best else ""
    return [f"{candidate.auroc:.4f}", f"{candidate.error:.4f}", mark]
