"""The results in short: a few scores on near and far OOD, and one sentence on what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffguard.report.comparison_notes import baseline_note
from diffguard.report.markdown import markdown_row
from diffguard.report.score_costs import COSTS, cost_text, costs_of
from diffguard.report.tables import Row, percent, score_names
from diffguard.scores.conformal import as_percent
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES

GROUPS = ("near", "far")
METRICS = {"auroc": "AUROC", "fpr95_id_positive": "FPR@95"}
SHORT_LEGEND = (
    "In %. AUROC: higher is better, 50 is chance. FPR@95: share of OOD images accepted when 95% of "
    "ID images are accepted; lower is better."
)
_MAIN = (DIFFGUARD, FUSION_BASELINES, FUSION)


@dataclass(frozen=True)
class ShortRow:
    """Scores that are equal on every set, with the figures of each group.

    Attributes:
        names: The scores.
        groups: `near` or `far` -> the row of `results["rows"]` with the group's means.
    """

    names: tuple[str, ...]
    groups: Mapping[str, Row]

    @property
    def title(self) -> str:
        """The names, joined."""
        return " = ".join(self.names)


def main_scores(results: Mapping[str, Any]) -> list[str]:
    """The scores that runs are compared by: DiffGuard, the fusions, and the best baselines.

    Args:
        results: The results, as `summary.summarize` returns them.

    Returns:
        The best baseline on OOD validation (without such sets none, because a choice on test sets
        would favor it), then `diffguard`, `fusion_baselines`, `fusion`, the fusions of `--fuse` and
        the score that judges images; those that exist. After a join, those of each run.
    """
    names = score_names(results)
    pairs = {row["score"] for row in results["comparisons"]}
    best = (results["baselines"] or {}).get("best")
    main = [name for base in (best, *_MAIN) for name in names if name.partition(" (")[0] == base]
    main += [name for name in names if name in pairs and name not in main]
    return list(dict.fromkeys([*main, deciding_score(results)]))


def short_rows(results: Mapping[str, Any]) -> list[ShortRow]:
    """The main scores, with scores that have equal figures in one row.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    rows = {(row["score"], row["dataset"]): row for row in results["rows"]}
    datasets = dict.fromkeys(row["dataset"] for row in results["rows"])
    names: dict[tuple[float, ...], list[str]] = {}
    for name in main_scores(results):
        figures = tuple(rows[name, dataset][metric] for dataset in datasets for metric in METRICS)
        names.setdefault(figures, []).append(name)
    groups = [group for group in GROUPS if group in datasets]
    return [
        ShortRow(tuple(equal), {group: rows[equal[0], group] for group in groups})
        for equal in names.values()
    ]


def deciding_score(results: Mapping[str, Any]) -> str:
    """The score that judges images: `detector.decision`; without it, `fusion` or `diffguard`."""
    names = score_names(results)
    settings = results["settings"].get("decision"), _detector(results).get("decision")
    choices = (*settings, FUSION, DIFFGUARD, names[-1])
    return next(name for name in choices if name in names)


def headline(results: Mapping[str, Any]) -> str:
    """One sentence on how well OOD images are detected by the score that judges them.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    score = deciding_score(results)
    rows = {row["dataset"]: row for row in results["rows"] if row["score"] == score}
    parts = [
        f"{percent(1 - rows[group]['fpr95_id_positive'])}% of {group}-OOD images"
        for group in GROUPS
        if group in rows
    ]
    return f"While 95% of ID images are accepted, {score} detects {' and '.join(parts)}."


def threshold_sentence(results: Mapping[str, Any]) -> str:
    """What the score that judges images does at its calibrated threshold; empty without one.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    score = deciding_score(results)
    ident = next(row for row in results["id"]["scores"] if row["score"] == score)
    if ident["threshold"] is None:
        return ""
    rows = {row["dataset"]: row for row in results["rows"] if row["score"] == score}
    flagged = [
        f"{percent(rows[group]['ood_flagged'])}% of {group}-OOD images"
        for group in GROUPS
        if group in rows
    ]
    return (
        f"At the calibrated threshold, it accepts {percent(ident['accepted'])}% of ID images and "
        f"flags {' and '.join(flagged)}."
    )


def summary_markdown(results: Mapping[str, Any]) -> str:
    """The results in short as Markdown: the sentence, the table, thresholds and the command.

    Args:
        results: The results, as `summary.summarize` returns them.
    """
    rows = short_rows(results)
    groups = list(rows[0].groups)
    heads = [f"{group} {title}" for group in groups for title in METRICS.values()]
    costs = costs_of(results)
    heads += ["diffusion passes", "ms per image"] if costs else []
    id_set = results["id"]
    accuracy = f"Accuracy on {id_set['dataset']}: {percent(id_set['accuracy'], 2)}%."
    lines = [headline(results), "", accuracy, "", markdown_row(["score", *heads])]
    lines.append(markdown_row(["---", *["---:"] * len(heads)]))
    for row in rows:
        cells = [percent(row.groups[group][metric]) for group in groups for metric in METRICS]
        cost = costs.get(row.names[0])
        cells += ["–" if cost is None else cost_text(cost[name]) for name in COSTS[2:] if costs]
        lines.append(markdown_row([row.title, *cells]))
    lines += ["", SHORT_LEGEND, "", f"Best baseline: {baseline_note(results)}."]
    lines += ["", *_verdict_lines(results)]
    command = results["settings"].get("command")
    if command:
        lines += ["", "Command:", "", f"    {command}"]
    return "\n".join(lines)


def _verdict_lines(results: Mapping[str, Any]) -> list[str]:
    """A table of the shares of images above the calibrated thresholds of the main scores."""
    accept = results["id"]["accept"]
    if accept is None:
        return ["There are too few ID validation images for a threshold."]
    id_rows = {row["score"]: row for row in results["id"]["scores"]}
    rows = {(row["score"], row["dataset"]): row for row in results["rows"]}
    short = short_rows(results)
    groups = list(short[0].groups)
    lines = [
        f"Thresholds are chosen to accept {as_percent(accept)} of new ID images on average:",
        "",
        markdown_row(["score", "threshold", "ID accepted", *(f"{g} flagged" for g in groups)]),
        markdown_row(["---", *["---:"] * (2 + len(groups))]),
    ]
    for row in short:
        name = row.names[0]
        ident = id_rows[name]
        if ident["threshold"] is None:
            continue
        flagged = [f"{percent(rows[name, group]['ood_flagged'])}%" for group in groups]
        accepted = f"{percent(ident['accepted'])}%"
        lines.append(markdown_row([row.title, f"{ident['threshold']:.4g}", accepted, *flagged]))
    return lines


def _detector(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section `detector` of the config; empty if it is not known."""
    section: Mapping[str, Any] = results["settings"].get("config", {}).get("detector", {})
    return section
