"""Results as tables for readers: cells and their Markdown form. Figures are percentages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffguard.printing import printable
from diffguard.report.comparison_notes import comparison_notes
from diffguard.report.image_lists import image_list_notes
from diffguard.report.score_costs import COSTS, cost_text, costs_of
from diffguard.report.stages import stage_notes
from diffguard.scores.conformal import as_percent

Row = Mapping[str, Any]

LEGEND = (
    "Rates in %, the best in bold. AUROC with its 95% bootstrap interval. FPR@95 ID: OOD accepted "
    "when 95% of ID is accepted; OOD: ID flagged when 95% of OOD is detected. AUPR by trapezoid, "
    "with ID (In) or OOD (Out) as the positive class. Accepted: ID images at the calibrated "
    "threshold, all of them and those that the classifier gets right or wrong; accuracy on the "
    "accepted ones. Flagged: OOD images at this threshold. AURC: area under the risk-coverage "
    "curve of the ID images."
)
COST_TITLE = "Cost per image"
COST_LEGEND = (
    "Cost per image as if the score were the only one, measured in this run: forward passes and "
    "gradients of the classifier, passes of the diffusion model, and milliseconds of one process. "
    "Each includes the classifier's pass that all scores share."
)
_ABSENT = "–"


@dataclass(frozen=True)
class Kind:
    """A column of a group; `merit` determines the best cell, None marks no best cell."""

    title: str
    head: str
    name: str
    text: Callable[[Row], str]
    merit: Callable[[Row], float] | None
    interval: str | None = None

    def is_best(self, row: Row, rows: Sequence[Row]) -> bool:
        """Whether `row` is the best of `rows` or equal to it."""
        if self.merit is None or row[self.name] is None:
            return False
        merits = [self.merit(other) for other in rows if other[self.name] is not None]
        return self.merit(row) == max(merits)

    def exists(self, rows: Sequence[Row]) -> bool:
        """Whether any of the rows has a value."""
        return any(row[self.name] is not None for row in rows)


def _metric(
    title: str, head: str, name: str, *, digits: int = 1, sign: int = 1, interval: bool = False
) -> Kind:
    return Kind(
        title,
        head,
        name,
        lambda row: _ABSENT if row[name] is None else percent(row[name], digits),
        (lambda row: sign * row[name]) if sign else None,
        f"{name}_ci95" if interval else None,
    )


def _interval_text(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "–".join(percent(value, digits) for value in row[name])


INTERVAL = Kind("", "95% CI", "auroc_ci95", _interval_text("auroc_ci95", 2), None)
KINDS = (
    _metric("", "AUROC", "auroc", digits=2, interval=True),
    INTERVAL,
    _metric("", "Flagged", "ood_flagged"),
    _metric("FPR@95", "ID", "fpr95_id_positive", sign=-1, interval=True),
    _metric("FPR@95", "OOD", "fpr95_ood_positive", sign=-1, interval=True),
    _metric("AUPR", "In", "aupr_in"),
    _metric("AUPR", "Out", "aupr_out"),
)
ID_KINDS = (
    _metric("Accepted", "all", "accepted", sign=0),
    _metric("Accepted", "right", "accepted_right", sign=0),
    _metric("Accepted", "wrong", "accepted_wrong", sign=0),
    _metric("Accepted", "accuracy", "accuracy_accepted", digits=2),
    _metric("", "AURC", "aurc", digits=2, sign=-1),
)


def _cost_kind(title: str, head: str, name: str) -> Kind:
    def text(row: Row) -> str:
        return _ABSENT if row[name] is None else cost_text(row[name])

    return Kind(title, head, name, text, None)


COST_KINDS = (
    _cost_kind("classifier", "passes", "classifier_passes"),
    _cost_kind("classifier", "gradients", "gradients"),
    _cost_kind("diffusion", "passes", "diffusion_passes"),
    _cost_kind("", "ms", "milliseconds"),
)


@dataclass(frozen=True)
class Group:
    """The columns of the ID set, of one OOD set, or of the mean over the near or far sets."""

    title: str
    rows: Sequence[Row]
    kinds: Sequence[Kind]
    is_mean: bool = False

    def split(self) -> list[Group]:
        """The group, split into parts with one heading each."""
        titles = dict.fromkeys(kind.title for kind in self.kinds)
        parts = [[kind for kind in self.kinds if kind.title == title] for title in titles]
        return [replace(self, kinds=part) for part in parts]


def score_names(results: Mapping[str, Any]) -> list[str]:
    """The scores in the order of their rows."""
    return list(dict.fromkeys(row["score"] for row in results["rows"]))


def make_groups(results: Mapping[str, Any]) -> list[Group]:
    """A group for the ID set, one per OOD set in order of appearance, then the means."""
    ident = results["id"]
    groups = [_group(f"{ident['dataset']} · ID · {ident['n']:,} images", ident["scores"], ID_KINDS)]
    rows: dict[str, list[Row]] = {}
    for row in results["rows"]:
        rows.setdefault(row["dataset"], []).append(row)
    for dataset, lines in rows.items():
        group, images = lines[0]["group"], f"{lines[0]['n_ood']:,} images"
        if dataset == group:
            sets = sum(other != group and r[0]["group"] == group for other, r in rows.items())
            title = f"mean of {sets} {group} set{'s' * (sets > 1)} · {images}"
        else:
            title = f"{dataset} · {group} · {images}"
        groups.append(_group(title, lines, KINDS, is_mean=dataset == group))
    return groups


def cost_groups(results: Mapping[str, Any]) -> list[Group]:
    """A group with the cost of each score; empty if the run did not record it."""
    costs, absent = costs_of(results), dict.fromkeys(COSTS)
    if not costs:
        return []
    title, alone = COST_TITLE, results["cost"].get("classifier_milliseconds")
    if alone is not None:
        title += f" · classifier alone {cost_text(alone)} ms"
    return [_group(title, [costs.get(name, absent) for name in score_names(results)], COST_KINDS)]


def _group(
    title: str, rows: Sequence[Row], kinds: Sequence[Kind], *, is_mean: bool = False
) -> Group:
    """A group without the columns whose values are missing in every row."""
    return Group(title, rows, [kind for kind in kinds if kind.exists(rows)], is_mean)


def make_notes(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Notes below the table as (label, text): accuracy, cost, comparisons, images left out."""
    id_set, cost = results["id"], results["cost"]
    images = f"{id_set['dataset']}, {id_set['n']:,} images"
    notes = [("ID accuracy", f"{percent(id_set['accuracy'], 2)} % ({images})")]
    if id_set["accept"] is not None:
        share = as_percent(id_set["accept"])
        notes.append(("Threshold", f"accepts at least {share} of new ID images on average"))
    units = {
        "images_per_second": "images per second",
        "network_passes_per_image": "network passes per image",
    }
    costs = [f"{cost[name]:.4g} {unit}" for name, unit in units.items() if name in cost]
    if costs:
        notes.append(("Cost", ", ".join([*costs, *_acceleration(results["settings"])])))
    notes += stage_notes(results)
    notes += comparison_notes(results)
    notes += image_list_notes(results["settings"])
    notes += [("Left out", why) for why in results["absent"].values()]
    errors = {name: count for name, count in results["errors"].items() if count}
    if errors:
        counts = ", ".join(f"{name} {count:,}" for name, count in errors.items())
        notes.append(("Left out", f"{sum(errors.values()):,} unreadable images ({counts})"))
    return notes


def _acceleration(settings: Mapping[str, Any]) -> list[str]:
    """What made the networks faster than in their plain form."""
    precision = settings.get("precision", "32-true")
    names = [] if precision in ("32", "32-true") else [str(precision)]
    return [*names, "compiled network"] if settings.get("compile") else names


def to_markdown(results: Mapping[str, Any]) -> str:
    """Results in Markdown: a table of the ID set, one per metric, then the notes.

    Args:
        results: The results, as `summary.summarize` returns them.

    Returns:
        The text of `results.md`.
    """
    names, (ident, *groups) = score_names(results), make_groups(results)
    lines = [f"## {ident.title}, %", ""]
    lines.append(markdown_row(["score", *(f"{k.title} {k.head}".strip() for k in ident.kinds)]))
    lines.append(markdown_row(["---", *["---:"] * len(ident.kinds)]))
    for name, row in zip(names, ident.rows, strict=True):
        lines.append(markdown_row([name, *(_cell(kind, row, ident) for kind in ident.kinds)]))
    for kind in groups[0].kinds:
        if kind is INTERVAL:
            continue
        lines += ["", f"## {kind.title} {kind.head}, %".replace("  ", " "), ""]
        lines.append(markdown_row(["score", *(group.title for group in groups)]))
        lines.append(markdown_row(["---", *["---:"] * len(groups)]))
        for number, name in enumerate(names):
            cells = [_cell(kind, group.rows[number], group) for group in groups]
            lines.append(markdown_row([name, *cells]))
    for group in cost_groups(results):
        lines += ["", f"## {group.title}", ""]
        lines.append(markdown_row(["score", *(f"{k.title} {k.head}".strip() for k in group.kinds)]))
        lines.append(markdown_row(["---", *["---:"] * len(group.kinds)]))
        for name, row in zip(names, group.rows, strict=True):
            lines.append(markdown_row([name, *(kind.text(row) for kind in group.kinds)]))
        lines += ["", COST_LEGEND]
    lines.append("")
    lines += [printable(f"- {label}: {text}") for label, text in make_notes(results)]
    return "\n".join([*lines, "", LEGEND, ""])


def _cell(kind: Kind, row: Row, group: Group) -> str:
    text = kind.text(row)
    if kind.is_best(row, group.rows):
        text = f"**{text}**"
    if kind.interval is None:
        return text
    return f"{text} ({_interval_text(kind.interval, 2 if kind.head == 'AUROC' else 1)(row)})"


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage; exactly 100% takes three characters."""
    text = f"{100 * value:.{digits}f}"
    return "100" if text.startswith("100.") else text


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"
