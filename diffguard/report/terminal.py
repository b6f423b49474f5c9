"""Results on the terminal.

`print_overview` prints the main scores on near and far OOD. `print_table` prints a row per score
and a column group per OOD set, with the means over the near and the far sets at the end. If the
groups do not fit side by side, the table continues below.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffguard.printing import printable
from diffguard.report.notes import make_notes
from diffguard.report.overview import (
    METRICS,
    SHORT_LEGEND,
    headline,
    short_rows,
    threshold_sentence,
)
from diffguard.report.tables import (
    COST_LEGEND,
    LEGEND,
    Group,
    cost_groups,
    make_groups,
    percent,
    score_names,
)

_PIPE_WIDTH = 120
_GAP = "   "
_HEAD_LINES = 4
_ASCII = str.maketrans({"─": "-", "–": "-", "−": "-", "·": ","})


def print_overview(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the main scores on near and far OOD, what they mean, and where to find the rest.

    Args:
        results: The results, as `summary.summarize` returns them.
        console: The console; defaults to the standard output, see `print_table`.
    """
    console = console or _default_console()
    rows = short_rows(results)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
    table.add_column(_encodable(Text("score"), console), overflow="fold")
    columns = [(group, metric) for group in rows[0].groups for metric in METRICS]
    for group, metric in columns:
        table.add_column(f"{group} {METRICS[metric]}", justify="right")
    for row in rows:
        cells = [Text(printable(row.title))]
        for group, metric in columns:
            value, values = row.groups[group][metric], [r.groups[group][metric] for r in rows]
            best = max(values) if metric == "auroc" else min(values)
            digits = 2 if metric == "auroc" else 1
            cells.append(Text(percent(value, digits), "bold green" if value == best else ""))
        table.add_row(*(_encodable(cell, console) for cell in cells))
    console.print()
    console.print(table)
    console.print(_encodable(Text(SHORT_LEGEND, "dim"), console))
    console.print()
    console.print(_encodable(Text(printable(headline(results)), "bold"), console))
    console.print(_encodable(Text(threshold_sentence(results)), console))
    _print_notes(results, console)
    console.print(Text("All scores and sets: results.md, or --full_table.", "dim"))


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print results: the table, then ID accuracy, cost, comparisons and images left out.

    Args:
        results: The results, as `summary.summarize` returns them.
        console: The console; defaults to the standard output, folded to the width of the terminal,
            or to 120 columns if the output is a file or a pipe.
    """
    console = console or _default_console()
    names = [printable(name) for name in score_names(results)]
    indent = max(len("score"), *map(len, names))
    costs = cost_groups(results)
    for block in _fold([*make_groups(results), *costs], console.width - indent):
        console.print()
        for line in _block_lines(names, block, indent):
            line.rstrip()
            console.print(_encodable(line, console), no_wrap=True, crop=False, soft_wrap=True)
    console.print()
    _print_notes(results, console)
    for legend in (LEGEND, COST_LEGEND) if costs else (LEGEND,):
        console.print(_encodable(Text(legend, "dim"), console))


def _default_console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _print_notes(results: Mapping[str, Any], console: Console) -> None:
    notes = Table.grid(padding=(0, 2))
    for label, text in make_notes(results):
        parts = Text(printable(label), "bold"), Text(printable(text))
        notes.add_row(*(_encodable(part, console) for part in parts))
    console.print(notes)


def _fold(groups: Sequence[Group], width: int) -> list[list[Group]]:
    """Split the groups into blocks that fit the width; the means then start a new block."""
    if sum(len(_GAP) + _width(group) for group in groups) <= width:
        return [list(groups)]
    blocks: list[list[Group]] = []
    room, means = 0, False
    for group in groups:
        for piece in [group] if len(_GAP) + _width(group) <= width else group.split():
            needed = len(_GAP) + _width(piece)
            if needed > room or group.is_mean != means:
                blocks.append([])
                room, means = width, group.is_mean
            blocks[-1].append(piece)
            room -= needed
    return blocks


def _block_lines(names: Sequence[str], block: Sequence[Group], indent: int) -> list[Text]:
    heads = [*[""] * (_HEAD_LINES - 1), "score", *names]
    columns = [[Text(head.ljust(indent)) for head in heads], *map(_group_lines, block)]
    lines = [Text(_GAP).join(parts) for parts in zip(*columns, strict=True)]
    rule = Text("─" * max(map(len, lines)), "dim")
    families = [_family(name) for name in names]
    for place in range(len(names) - 1, -1, -1):
        if place == 0 or families[place] != families[place - 1]:
            lines.insert(_HEAD_LINES + place, rule)
    return lines


def _group_lines(group: Group) -> list[Text]:
    """Title, rule, headings, heads and a line per score, all as wide as the group."""
    titles = Text()
    for piece in group.split():
        titles.append(piece.kinds[0].title.center(_columns_width(piece)) + "  ", "dim")
    widths = _widths(group)
    heads = [kind.head.rjust(width) for kind, width in zip(group.kinds, widths, strict=True)]
    lines = [
        Text(printable(group.title), "bold cyan"),
        Text("─" * _width(group), "cyan"),
        titles,
        Text("  ".join(heads)),
    ]
    for row in group.rows:
        line = Text()
        for kind, width in zip(group.kinds, widths, strict=True):
            best = kind.is_best(row, group.rows)
            style = "bold green" if best else "" if kind.merit else "dim"
            line.append(kind.text(row).rjust(width), style).append("  ")
        lines.append(line)
    for line in lines:
        line.truncate(_width(group), pad=True)
    return lines


def _widths(group: Group) -> list[int]:
    columns = ((kind.head, *map(kind.text, group.rows)) for kind in group.kinds)
    return [max(map(len, column)) for column in columns]


def _columns_width(group: Group) -> int:
    return sum(_widths(group)) + 2 * (len(group.kinds) - 1)


def _width(group: Group) -> int:
    return max(_columns_width(group), len(printable(group.title)))


def _family(name: str) -> str:
    """A line separates post-hoc baselines, DiffGuard's distances and the fusions."""
    head = name.partition(" (")[0].split("/")[0].removesuffix("_baselines")
    return head if head in ("diffguard", "fusion") else ""


def _encodable(text: Text, console: Console) -> Text:
    """The text in the encoding of the output, so that a long run does not fail on a dash."""
    plain = text.plain.translate(_ASCII) if console.options.ascii_only else text.plain
    plain = printable(plain, console.encoding)
    return text if plain == text.plain else Text(plain)
