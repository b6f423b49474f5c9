"""All detection methods on the same test images, from the score tables of evaluations.

    python benchmarks/methods.py runs/methods runs/methods/seed_* --output docs/figures

reads evaluation folders, one for each training of a detector, and prints two tables: the AUROC and
FPR@95 of each method, averaged over the trainings, and what its fusion with `diffguard` gains. The
intervals are those of a bootstrap of the test images, with the same draws for all trainings and
methods. `runs/methods` holds the results of `method_settings.py`. `--demo` names evaluations of the
same trainings with the settings of the demo, which get a row of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from diffguard.report.bootstrap import interval
from diffguard.report.fusions import add_fusions
from diffguard.report.ood_results import FiguresTable, ood_results
from diffguard.report.run_files import read_run
from diffguard.report.scored_run import ScoredRun
from diffguard.settings.methods import METHODS

GROUPS = ("near", "far")
# The baseline that the demo fuses with `diffguard`.
BASELINE = "vim"
_DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A metric, or a difference of two, averaged over trainings; in [0, 1] or [-1, 1].

    Attributes:
        mean: The mean over the trainings.
        interval: 95% interval of this mean over test images.
        trainings: The value of each training.
    """

    mean: float
    interval: tuple[float, float]
    trainings: list[float]

    def text(self, *, spread: bool = False) -> str:
        """In percent, with the interval, and on request the range over trainings."""
        low, high = self.interval
        text = f"{self.mean:.1%} [{low:.1%}, {high:.1%}]".replace("%", "")
        if spread:
            text += f" ({min(self.trainings):.1%}–{max(self.trainings):.1%})".replace("%", "")
        return text


class Comparison:
    """The metrics of several trainings on the same test images.

    Args:
        runs: An evaluation of each training.
    """

    def __init__(self, runs: Sequence[ScoredRun]) -> None:
        self.tables: list[FiguresTable] = []
        for run in runs:
            sets = {g: [name for name, group in run.groups.items() if group == g] for g in GROUPS}
            id_set = next(name for name, group in run.groups.items() if group == "id")
            # One seed for all, so that the draws are the same.
            self.tables.append(ood_results(replace(run, seed=0), id_set, sets, _DRAWS, None))

    def estimate(self, metric: str, score: str, group: str, against: str | None = None) -> Estimate:
        """A metric of a score on a group of sets, or its difference to that of another score."""
        values, draws = self._values(metric, score, group)
        if against is not None:
            values_against, draws_against = self._values(metric, against, group)
            values, draws = values - values_against, draws - draws_against
        return Estimate(float(values.mean()), interval(draws.mean(0)), values.tolist())

    def _values(
        self, metric: str, score: str, group: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        figures = [table[score, group] for table in self.tables]
        values = np.array([figure.values[metric] for figure in figures], dtype=np.float64)
        return values, np.stack([figure.draws[metric] for figure in figures])


def evaluation(folder: Path) -> ScoredRun:
    """A scored run, with the fusions of each method with `diffguard` and the baseline."""
    triples = {f"3/{name}": [METHODS[0], BASELINE, name] for name in METHODS[1:]}
    return add_fusions(read_run(folder), triples)


def results(comparison: Comparison, folder: Path) -> dict[str, dict[str, Any]]:
    """Method -> its estimates, passes and images per second."""
    search = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    rates = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = {}
    for name in METHODS:
        best = max(search[name], key=lambda trial: trial["auroc"])
        row = {key: best[key] for key in ("settings", "distance", "passes")}
        row |= {"images_per_second": rates[name], "validation_auroc": best["auroc"]}
        row |= metrics(comparison, name)
        for group in GROUPS:
            if name != METHODS[0]:
                pair, triple = f"fusion/{name}", f"fusion/3/{name}"
                row[f"{group}/pair"] = comparison.estimate("auroc", pair, group)
                row[f"{group}/gain"] = comparison.estimate("auroc", pair, group, METHODS[0])
                base = f"fusion/{BASELINE}"
                row[f"{group}/gain3"] = comparison.estimate("auroc", triple, group, base)
        rows[name] = row
    return rows


def metrics(comparison: Comparison, name: str) -> dict[str, Any]:
    """AUROC and FPR@95 of a method on both groups."""
    row: dict[str, Any] = {}
    for group in GROUPS:
        row[f"{group}/auroc"] = comparison.estimate("auroc", name, group)
        row[f"{group}/fpr95"] = comparison.estimate("fpr95_id_positive", name, group)
    return row


def result_row(name: str, row: dict[str, Any]) -> str:
    """A row of the first table."""
    cells = [name]
    for group in GROUPS:
        cells += [row[f"{group}/auroc"].text(spread=True), row[f"{group}/fpr95"].text()]
    for key in ("passes", "images_per_second"):
        cells.append(f"{row[key]:.0f}" if key in row else "")
    return f"| {' | '.join(cells)} |"


def print_tables(rows: dict[str, dict[str, Any]]) -> None:
    """Both tables, in percent."""
    print("| method | near AUROC | near FPR@95 | far AUROC | far FPR@95 | passes | images/s |")
    print("|" + " --- |" * 7)
    for name, row in rows.items():
        print(result_row(f"`{name}`", row))
    head = [f"{group}: {what}" for group in GROUPS for what in ("fused", "gain", "gain with ViM")]
    print(f"\n| `diffguard` with | {' | '.join(head)} |\n|" + " --- |" * 7)
    for name, row in list(rows.items())[1:]:
        keys = [f"{group}/{what}" for group in GROUPS for what in ("pair", "gain", "gain3")]
        print(f"| `{name}` | {' | '.join(row[key].text() for key in keys)} |")


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """AUROC with intervals of each method, near and far, with its network passes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    names = sorted(rows, key=lambda name: rows[name]["near/auroc"].mean)
    for group, axis in zip(GROUPS, axes, strict=True):
        estimates: list[Estimate] = [rows[name][f"{group}/auroc"] for name in names]
        means = np.array([estimate.mean for estimate in estimates])
        bars = np.abs(np.array([estimate.interval for estimate in estimates]).T - means)
        axis.errorbar(means, range(len(names)), xerr=bars, fmt="o", capsize=3)
        axis.set(xlabel="AUROC, mean of the trainings", title=f"{group} OOD", xlim=(0.5, 1.0))
        axis.grid(alpha=0.3)
    labels = [f"{name}, {rows[name]['passes']:.0f} passes" for name in names]
    axes[0].set_yticks(range(len(names)), labels=labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    """Print the tables, and write the figure and the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("search", type=Path, help="folder of method_settings.py")
    parser.add_argument("folders", type=Path, nargs="+", help="evaluation folders")
    parser.add_argument("--output", type=Path, default=Path("runs/methods"), help="of methods.png")
    parser.add_argument("--demo", type=Path, nargs="*", default=[], help="with other settings")
    options = parser.parse_args(argv)
    rows = results(Comparison([*map(evaluation, options.folders)]), options.search)
    print_tables(rows)
    if options.demo:
        demo = Comparison([*map(read_run, options.demo)])
        print("\n" + result_row("the demo's settings", metrics(demo, METHODS[0])))
    draw(rows, options.output / "methods.png")
    plain = {
        name: {k: asdict(v) if isinstance(v, Estimate) else v for k, v in row.items()}
        for name, row in rows.items()
    }
    (options.search / "methods.json").write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
