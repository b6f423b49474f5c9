"""Results in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffguard.printing import printable
from diffguard.report.notes import make_notes
from diffguard.report.tables import (
    COST_LEGEND,
    INTERVAL,
    LEGEND,
    Group,
    Kind,
    Row,
    cost_groups,
    interval_text,
    make_groups,
    score_names,
)


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
    return f"{text} ({interval_text(kind.interval, 2 if kind.head == 'AUROC' else 1)(row)})"


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"
