"""Comparisons of scores, as notes below a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffguard.report.opponents import Opponents

# Below it, a difference after Holm's correction counts as significant.
LEVEL = 0.05

Comparison = Mapping[str, Any]


def comparison_notes(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The comparisons as (label, text), and how the best baseline was chosen.

    Comparisons with every baseline are summed up in a note for each score and group.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    plain = results["baselines"]
    opponents = None if plain is None else Opponents.from_plain(plain)
    every = opponents is not None and opponents.best is None
    names = opponents.names if opponents is not None and every else ()
    notes = [("Best baseline", baseline_note(results))]
    several: dict[tuple[str, str], list[Comparison]] = {}
    for row in results["comparisons"]:
        if row["against"].partition(" (")[0] in names:  # without the run of a join
            several.setdefault((row["score"], row["group"]), []).append(row)
            continue
        low, high = (_signed(value) for value in row["ci95"])
        label = f"{row['score']} − {row['against']}"
        text = (
            f"{row['group']} AUROC {_signed(row['difference'])} (95% CI {low} to {high}, p-value "
            f"{row['holm']:.2g} after Holm's correction)"
        )
        notes.append((label, text))
    for (score, group), rows in several.items():
        notes.append((f"{score} − each baseline", f"{group} AUROC {_range(rows)}"))
    return notes


def baseline_note(results: Mapping[str, Any]) -> str:
    """How the best baseline was chosen on OOD validation, or why not; without the last period.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    plain = results["baselines"]
    if plain is not None:
        return Opponents.from_plain(plain).describe()
    return (
        "not chosen, because the run has no record of OOD validation. The short table has none. To "
        "choose one, evaluate with --ckpt and OOD validation sets (data.ood_validation)"
    )


def _range(rows: Sequence[Comparison]) -> str:
    """The smallest and largest difference, and how many are significant."""
    ordered = sorted(rows, key=lambda row: row["difference"])
    ends = [f"{_signed(row['difference'])} ({row['against']})" for row in (ordered[0], ordered[-1])]
    significant = [row for row in rows if row["holm"] < LEVEL]
    higher = sum(row["difference"] > 0 for row in significant)
    lower = len(significant) - higher
    return (
        f"{' to '.join(ends)}; significantly above {higher} and below {lower} of {len(rows)} after "
        "Holm's correction"
    )


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")
