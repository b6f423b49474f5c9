"""Results as tables for readers: cells and their Markdown form. Figures are percentages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffguard.printing import printable

Row = Mapping[str, Any]

LEGEND = (
    "All in %, the best in bold. AUROC with its 95% bootstrap interval. FPR@95 ID: OOD accepted "
    "when 95% of ID is accepted; OOD: ID flagged when 95% of OOD is detected. AUPR by trapezoid, "
    "with ID (In) or OOD (Out) as the positive class."
)


@dataclass(frozen=True)
class Kind:
    """A column of every group; `merit` determines the best cell, None marks no best cell."""

    title: str
    head: str
    text: Callable[[Row], str]
    merit: Callable[[Row], float] | None

    def is_best(self, row: Row, rows: Sequence[Row]) -> bool:
        """Whether `row` is the best of `rows` or equal to it."""
        return self.merit is not None and self.merit(row) == max(map(self.merit, rows))


def _metric(title: str, head: str, name: str, *, digits: int = 1, sign: int = 1) -> Kind:
    return Kind(title, head, lambda r: percent(r[name], digits), lambda r: sign * r[name])


INTERVAL = Kind("", "95% CI", lambda r: "–".join(percent(v, 2) for v in r["auroc_ci95"]), None)
KINDS = (
    _metric("", "AUROC", "auroc", digits=2),
    INTERVAL,
    _metric("FPR@95", "ID", "fpr95_id_positive", sign=-1),
    _metric("FPR@95", "OOD", "fpr95_ood_positive", sign=-1),
    _metric("AUPR", "In", "aupr_in"),
    _metric("AUPR", "Out", "aupr_out"),
)


@dataclass(frozen=True)
class Group:
    """The columns of one OOD set, or of the mean over the near or far sets."""

    title: str
    rows: Sequence[Row]
    is_mean: bool
    kinds: Sequence[Kind] = KINDS

    def split(self) -> list[Group]:
        """The group, split into parts with one heading each."""
        titles = dict.fromkeys(kind.title for kind in self.kinds)
        parts = [[kind for kind in self.kinds if kind.title == title] for title in titles]
        return [replace(self, kinds=part) for part in parts]


def score_names(results: Mapping[str, Any]) -> list[str]:
    """The scores in the order of their rows."""
    return list(dict.fromkeys(row["score"] for row in results["rows"]))


def make_groups(results: Mapping[str, Any]) -> list[Group]:
    """A group per OOD set in order of appearance, then the means."""
    rows: dict[str, list[Row]] = {}
    for row in results["rows"]:
        rows.setdefault(row["dataset"], []).append(row)
    groups = []
    for dataset, lines in rows.items():
        group, images = lines[0]["group"], f"{lines[0]['n_ood']:,} images"
        if dataset == group:
            sets = sum(other != group and r[0]["group"] == group for other, r in rows.items())
            title = f"mean of {sets} {group} set{'s' * (sets > 1)} · {images}"
        else:
            title = f"{dataset} · {group} · {images}"
        groups.append(Group(title, lines, dataset == group))
    return groups


def make_notes(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Notes below the table as (label, text): accuracy, cost, comparisons, images left out."""
    id_set, cost = results["id"], results["cost"]
    images = f"{id_set['dataset']}, {id_set['n']:,} images"
    notes = [("ID accuracy", f"{percent(id_set['accuracy'], 2)} % ({images})")]
    units = {
        "images_per_second": "images per second",
        "network_passes_per_image": "network passes per image",
    }
    costs = [f"{cost[name]:.4g} {unit}" for name, unit in units.items() if name in cost]
    if costs:
        notes.append(("Cost", ", ".join(costs)))
    for row in results["comparisons"]:
        low, high = (_signed(value) for value in row["ci95"])
        label = f"{row['score']} − {row['against']}"
        text = f"{row['group']} AUROC {_signed(row['difference'])} (95% CI {low} to {high})"
        notes.append((label, text))
    notes += [("Left out", why) for why in results["absent"].values()]
    errors = {name: count for name, count in results["errors"].items() if count}
    if errors:
        counts = ", ".join(f"{name} {count:,}" for name, count in errors.items())
        notes.append(("Left out", f"{sum(errors.values()):,} unreadable images ({counts})"))
    return notes


def to_markdown(results: Mapping[str, Any]) -> str:
    """Results in Markdown: a table per metric with a column per set, then the notes.

    Args:
        results: The results, as `summary.summarize` returns them.

    Returns:
        The text of `results.md`.
    """
    groups, lines = make_groups(results), []
    for kind in KINDS:
        if kind is INTERVAL:
            continue
        lines += [f"## {kind.title} {kind.head}, %".replace("  ", " "), ""]
        lines.append(_markdown_row(["score", *(group.title for group in groups)]))
        lines.append(_markdown_row(["---", *["---:"] * len(groups)]))
        for number, name in enumerate(score_names(results)):
            cells = []
            for group in groups:
                row = group.rows[number]
                text = kind.text(row)
                if kind.is_best(row, group.rows):
                    text = f"**{text}**"
                cells.append(f"{text} ({INTERVAL.text(row)})" if kind.head == "AUROC" else text)
            lines.append(_markdown_row([name, *cells]))
        lines.append("")
    lines += [printable(f"- {label}: {text}") for label, text in make_notes(results)]
    return "\n".join([*lines, "", LEGEND, ""])


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage; exactly 100% takes three characters."""
    text = f"{100 * value:.{digits}f}"
    return "100" if text.startswith("100.") else text


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"
