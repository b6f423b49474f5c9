"""Results as tables for readers: columns, groups and cells. Figures are percentages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffguard.report.score_costs import COSTS, cost_text, costs_of

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


def interval_text(name: str, digits: int) -> Callable[[Row], str]:
    """The text of a confidence interval in a row, such as `97.1–98.4`."""
    return lambda row: "–".join(percent(value, digits) for value in row[name])


INTERVAL = Kind("", "95% CI", "auroc_ci95", interval_text("auroc_ci95", 2), None)
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


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage; exactly 100% takes three characters."""
    text = f"{100 * value:.{digits}f}"
    return "100" if text.startswith("100.") else text
