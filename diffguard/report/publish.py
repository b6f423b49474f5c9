"""Output of an evaluation: tables, files, figures and TensorBoard.

No function here needs a model.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.report import figures
from diffguard.report.cases import Cases
from diffguard.report.fusions import add_fusions
from diffguard.report.gallery import GalleryImage
from diffguard.report.glance import at_a_glance, stage_shares
from diffguard.report.html.evaluation import write_evaluation
from diffguard.report.join import join_runs
from diffguard.report.logged import OVERVIEW, log_results
from diffguard.report.panel import PanelRow, panel
from diffguard.report.published_table import has_manifest, read_scores
from diffguard.report.results_files import write_results
from diffguard.report.results_log import ResultsLog
from diffguard.report.scored_run import ScoredRun
from diffguard.report.summary import summarize
from diffguard.report.tensorboard import TensorBoardLog
from diffguard.report.terminal import print_overview, print_table
from diffguard.report.training_figures import pixels_of
from diffguard.storage.files import refuse_links, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def report(
    run: ScoredRun,
    output: Path,
    tensorboard: Path | None,
    *,
    logs: Sequence[ResultsLog] = (),
    metrics: Mapping[tuple[str, str], Mapping[str, float]] | None = None,
    panels: Sequence[tuple[Cases, list[PanelRow]]] = (),
    images: Sequence[GalleryImage] = (),
    full_table: bool = False,
    command: str = "",
    page: str = "report.html",
) -> dict[str, Any]:
    """Write, log and print the results of a scored run, and draw its figures.

    Args:
        run: The scored run.
        output: Folder for `results.json`, `results.csv`, `results.md`, `figures/` and the page.
        tensorboard: TensorBoard folder, whose `evaluation` is written anew; None writes none.
        logs: Further loggers of the results; they are closed.
        metrics: See `diffguard.report.summary.summarize`.
        panels: Images of the run with their reconstructions, by what they have in common.
        images: The gallery of the page.
        full_table: Whether to print every score on every set.
        command: The command that makes the report from score tables; empty if there is none.
        page: Name of the page.

    Returns:
        The results.
    """
    results = summarize(run, metrics=metrics)
    refuse_links(output / "figures")
    write_results(output, results)
    write_evaluation(output / page, run, results, images, command)
    with ExitStack() as stack:
        logs = [*logs, *([] if tensorboard is None else [_open_tensorboard(tensorboard)])]
        for log in logs:
            stack.callback(log.close)
        for log in logs:
            log_results(log, run, results)
        for name, figure in chain(_figures(run, results), _panels(panels)):
            file = output / "figures" / f"{name.replace('/', '_')}.png"
            # `savefig` would draw the figure twice, which takes most of the time of a report.
            pixels = pixels_of(figure, dpi=150)
            with replace_file(file) as path:
                Image.fromarray(pixels).save(path, format="png")
            for log in logs:
                log.picture(f"{OVERVIEW}/{name}", file)
    _print_results(run, results, full_table=full_table)
    say("", f"Results: {output}", f"Report: {output / page}")
    if tensorboard is not None:
        say(f"TensorBoard: tensorboard --logdir {shlex.quote(str(tensorboard))}")
    return results


def report_again(
    folders: Sequence[Path],
    fusions: Mapping[str, Sequence[str]],
    output: Path,
    *,
    groups: Mapping[str, str] | None = None,
    full_table: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Compute results again from evaluation folders alone, without a model.

    Args:
        folders: Evaluation folders or score tables; several are joined, see
            `diffguard.report.join`.
        fusions: Further fusions, name -> scores.
        output: Folder for the results, see `report`; TensorBoard's files go to `tensorboard` in it.
            If it is one of `folders`, the page is `report_of_scores.html`, so that the images of
            `report.html` are kept.
        groups: See `published_table.read_scores`; needed for tables without a manifest only.
        full_table: Whether to print every score on every set.
        command: The command line, for the report.

    Raises:
        UserError: If a folder cannot be read, the runs scored different data, or a fusion is
            impossible.
    """
    if groups and all(map(has_manifest, folders)):
        raise UserError("--groups has no effect: the manifest of each folder names the groups")
    runs = [read_scores(folder, groups or {}) for folder in folders]
    run = add_fusions(join_runs(runs), fusions)
    if command and len(folders) > 1:
        run = replace(run, settings={**run.settings, "command": command})
    is_source = output.resolve() in [folder.resolve() for folder in folders]
    return report(
        run,
        output,
        output / "tensorboard",
        full_table=full_table,
        command=command,
        page="report_of_scores.html" if is_source else "report.html",
    )


def _open_tensorboard(folder: Path) -> TensorBoardLog:
    refuse_links(folder, folder / "evaluation")
    return TensorBoardLog.in_folder(folder / "evaluation")


def _print_results(run: ScoredRun, results: Mapping[str, Any], *, full_table: bool) -> None:
    if full_table:
        print_table(results)
    else:
        print_overview(results)
    for remark in run.remarks:
        say(f"note: {remark}", file=sys.stderr)


def _panels(panels: Iterable[tuple[Cases, list[PanelRow]]]) -> Iterator[tuple[str, Figure]]:
    for cases, rows in panels:
        if rows:
            yield cases.name, panel(rows, cases.title)


def _figures(run: ScoredRun, results: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    yield "at_a_glance", at_a_glance(results)
    if results["stages"] and run.thresholds is not None:
        yield "stages", stage_shares(results)
    table = run.table
    identifier = next(name for name, group in run.groups.items() if group == "id")
    others = [name for name in run.groups if name != identifier]
    for name in run.headline:
        ident = table.scores[name][table.rows(identifier)]
        ood = {other: table.scores[name][table.rows(other)] for other in others}
        yield f"scores_{name}", figures.score_histogram(ident, ood, name)
        curves = {other: (ident, values) for other, values in ood.items()}
        yield f"roc_{name}", figures.roc_curves(curves, name)
    stops = table.stop_step[table.stop_step >= 0]
    if len(stops) and stops.min() < stops.max():
        depths = {name: table.stop_step[table.rows(name)] - 1 for name in run.groups}
        yield "depth", figures.stop_depth_histogram(depths, int(stops.max()) - 1)
