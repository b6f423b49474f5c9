"""The files of an evaluation's results: JSON for programs, CSV and Markdown for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffguard.report.markdown import to_markdown
from diffguard.report.score_costs import COSTS, costs_of
from diffguard.report.tables import score_names
from diffguard.score_table.cells import to_cell
from diffguard.storage.files import replace_file

_INTERVAL = "_ci95"


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `results.json`, `results.csv` (its rows) and `results.md` (its tables).

    Args:
        folder: Output folder; created if it is missing.
        results: The results, as `summary.summarize` returns them.

    Raises:
        UserError: If the files cannot be written.
    """
    table = io.StringIO()
    costs = _cost_columns(results)
    rows = [_flatten(row) | costs[row["score"]] for row in results["rows"]]
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, text in {
        "results.json": json.dumps(results, indent=2, allow_nan=False) + "\n",
        "results.csv": table.getvalue(),
        "results.md": to_markdown(results),
    }.items():
        with replace_file(Path(folder) / name) as path:
            path.write_text(text, encoding="utf-8", newline="")


def _cost_columns(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Score -> its costs, the same in each of its rows; without any, no columns."""
    costs, names = costs_of(results), score_names(results)
    columns = COSTS if costs else ()
    return {n: {column: costs.get(n, {}).get(column) for column in columns} for n in names}


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith(_INTERVAL):
            metric = name.removesuffix(_INTERVAL)
            flat |= zip((f"{metric}_low", f"{metric}_high"), value, strict=True)
        else:
            flat[name] = to_cell(value) if isinstance(value, str) else value
    return flat
