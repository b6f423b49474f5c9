"""Output of an evaluation: tables, files, figures and TensorBoard.

No function here needs a model.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from diffguard.printing import printable, say
from diffguard.report import figures
from diffguard.report.fusions import add_fusions
from diffguard.report.join import join_runs
from diffguard.report.results_files import write_results
from diffguard.report.run_files import read_run
from diffguard.report.scored_run import ScoredRun
from diffguard.report.summary import logged_values, summarize
from diffguard.report.terminal import print_table
from diffguard.storage.files import refuse_links, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def report(
    run: ScoredRun,
    output: Path,
    tensorboard: Path,
    *,
    metrics: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
    panels: Iterable[tuple[str, Figure]] = (),
) -> dict[str, Any]:
    """Write and print the results of a scored run, and draw its figures.

    Args:
        run: The scored run.
        output: Folder for `results.json`, `results.csv`, `results.md` and `figures/`.
        tensorboard: TensorBoard folder; the evaluation writes to `evaluation` in it.
        metrics: See `diffguard.report.summary.summarize`.
        panels: Further figures with their names.

    Returns:
        The results.
    """
    results = summarize(run, metrics=metrics)
    refuse_links(output / "figures", tensorboard, tensorboard / "evaluation")
    write_results(output, results)
    with SummaryWriter(str(tensorboard / "evaluation")) as writer:
        for name, value in logged_values(results).items():
            writer.add_scalar(_tag(name), value)
        for figures_by_name in (_figures(run), panels):
            for name, figure in figures_by_name:
                with replace_file(output / "figures" / f"{name.replace('/', '_')}.png") as path:
                    figure.savefig(path, format="png", dpi=150)
                    pixels = np.asarray(Image.open(path).convert("RGB"))
                # Drawing the figure a second time would take most of the time of a report.
                writer.add_image(_tag(name), pixels, dataformats="HWC")
    print_table(results)
    for remark in run.remarks:
        say(f"note: {remark}", file=sys.stderr)
    logs = shlex.quote(str(tensorboard))
    say("", f"Results: {output}", f"TensorBoard: tensorboard --logdir {logs}")
    return results


def report_again(
    folders: Sequence[Path], fusions: Mapping[str, Sequence[str]], output: Path
) -> dict[str, Any]:
    """Compute results again from evaluation folders alone, without a model.

    Args:
        folders: Evaluation folders; several are joined, see `diffguard.report.join`.
        fusions: Further fusions, name -> scores.
        output: Folder for the results, see `report`; TensorBoard's files go to `tensorboard` in it.

    Raises:
        UserError: If a folder cannot be read, the runs scored different data, or a fusion is
            impossible.
    """
    run = add_fusions(join_runs([read_run(folder) for folder in folders]), fusions)
    return report(run, output, output / "tensorboard")


def _tag(name: str) -> str:
    """A name that TensorBoard accepts."""
    return printable(name).replace(" ", "_")


def _figures(run: ScoredRun) -> Iterator[tuple[str, Figure]]:
    table = run.table
    identifier = next(name for name, group in run.groups.items() if group == "id")
    others = [name for name in run.groups if name != identifier]
    for name in run.headline:
        ident = table.scores[name][table.rows(identifier)]
        ood = {other: table.scores[name][table.rows(other)] for other in others}
        yield f"scores/{name}", figures.score_histogram(ident, ood, name)
        curves = {other: (ident, values) for other, values in ood.items()}
        yield f"roc/{name}", figures.roc_curves(curves, name)
    stops = table.stop_step[table.stop_step >= 0]
    if len(stops) and stops.min() < stops.max():
        depths = {name: table.stop_step[table.rows(name)] - 1 for name in run.groups}
        yield "depth", figures.stop_depth_histogram(depths, int(stops.max()) - 1)
