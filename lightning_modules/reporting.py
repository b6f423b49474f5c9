"""What an evaluation shows: tables, files, TensorBoard, verdicts on a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from diffguard import figures
from diffguard.calibration import DIFFGUARD, FUSION, FUSION_BASELINES
from diffguard.checkpoint import library_versions
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.files import replace_file
from diffguard.report import summarise, write_results
from diffguard.score_table import ScoreTable
from diffguard.scoring import Scored
from diffguard.settings import to_dict
from diffguard.terminal import print_table
from lightning_modules.detector import items_of
from lightning_modules.evaluation import ScoringRun, read_timing


def report(
    scoring: ScoringRun,
    table: ScoreTable,
    output: Path,
    tensorboard: Path,
    config: Mapping[str, Any],
    *,
    panels: int,
) -> dict[str, Any]:
    """Write and print the results of an evaluation, and log them to TensorBoard.

    Args:
        scoring: The run that was scored.
        table: Its merged table.
        output: Folder for `results.json`, `results.csv` and `results.md`.
        tensorboard: The run's TensorBoard folder; the evaluation gets its own part.
        config: The run's config, kept in the results.
        panels: Images per panel; 0 draws none.

    Returns:
        The results.
    """
    groups = scoring.data.groups
    timing = read_timing(output)
    detector = scoring.detector
    cost = {
        "images_per_second": timing["images"] / timing["seconds"] if timing["seconds"] else None,
        "batch_fill": timing["fill"],
    }
    settings = {
        "config": {**config, "detector": to_dict(detector.settings)},
        "seed": detector.seed,
        "batch_size": scoring.batch_size,
        "libraries": library_versions(),
        "device": str(detector.device),
        **scoring.identity,
    }
    comparisons = [(FUSION, FUSION_BASELINES)] if detector.settings.fused else []
    results = summarise(
        table,
        groups,
        score_names=scoring.names,
        comparisons=comparisons,
        cost=cost,
        settings=settings,
        absent=scoring.data.left_out,
        seed=detector.seed,
    )
    write_results(output, results)
    _log(scoring, table, results, tensorboard / "evaluation", panels)
    print_table(results)
    print(f"\nResults: {output}\nTensorBoard: tensorboard --logdir {tensorboard}")  # noqa: T201
    return results


def _log(
    scoring: ScoringRun, table: ScoreTable, results: Mapping[str, Any], folder: Path, panels: int
) -> None:
    names = [name for name in (DIFFGUARD, FUSION) if name in scoring.names]
    identifier, *others = list(scoring.data.groups)
    with SummaryWriter(str(folder)) as writer:
        for row in results["rows"]:
            for metric in (
                "auroc",
                "aupr_in",
                "aupr_out",
                "fpr95_id_positive",
                "fpr95_ood_positive",
            ):
                tag = f"{metric}/{row['score']}/{row['dataset']}".replace(" ", "_")
                writer.add_scalar(tag, row[metric])
        writer.add_scalar("id/accuracy", results["id"]["accuracy"])
        for name in names:
            ident = table.scores[name][table.rows(identifier)]
            ood = {other: table.scores[name][table.rows(other)] for other in others}
            writer.add_figure(f"scores/{name}", figures.score_histogram(ident, ood, name))
            curves = {other: (ident, values) for other, values in ood.items()}
            writer.add_figure(f"roc/{name}", figures.roc_curves(curves, name))
        if scoring.detector.settings.early_stop.thresholds:
            stops = {n: table.stop_step[table.rows(n)] - 1 for n in scoring.data.groups}
            last = scoring.detector.max_steps - 1
            writer.add_figure("depth", figures.stop_depth_histogram(stops, last))
        for dataset in scoring.data.groups if panels else ():
            rows = _spread(table, dataset, panels)
            if len(rows):
                scored = reconstruct(scoring, table, rows)
                figure = figures.panel(panel_rows(scoring.detector, scored), dataset)
                writer.add_figure(f"panels/{dataset}", figure)


def _spread(table: ScoreTable, dataset: str, count: int) -> np.ndarray:
    """Rows of a set at evenly spaced ranks of the `diffguard` score, lowest to highest."""
    rows = table.rows(dataset)
    ordered = rows[np.argsort(table.scores[DIFFGUARD][rows], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
    return ordered[places.round().astype(int)]


def reconstruct(scoring: ScoringRun, table: ScoreTable, rows: np.ndarray) -> list[Scored]:
    """Reconstruct the images of some rows again, with the unguided reconstruction beside."""
    wanted = {(table.dataset_names[table.dataset[r]], int(table.index[r])) for r in rows}
    stream = scoring.stream
    rest = stream.without(set(stream.pairs()) - wanted)
    scores = scoring.detector.stream(scoring.batch_size, unguided=True)
    scored: list[Scored] = []
    with scoring.precision():
        for batch in scoring.data.stream_loader(rest):
            scored += scores.push(items_of(batch))
        scored += scores.flush()
    order = {
        (table.dataset_names[table.dataset[r]], int(table.index[r])): i for i, r in enumerate(rows)
    }
    return sorted(scored, key=lambda one: order[one.row.dataset, one.row.index])


def panel_rows(detector: Detector, scored: list[Scored]) -> list[figures.PanelRow]:
    """What a panel shows of each image."""
    names = detector.classifier.class_names
    rows = []
    for one in scored:
        result, row = one.reconstruction, one.row
        if result is None or row.prediction is None:
            continue
        mask = result.job.mask
        rows.append(
            figures.PanelRow(
                image=result.job.image.cpu(),
                guided=result.guided.cpu(),
                unguided=None if result.unguided is None else result.unguided.cpu(),
                mask=None if mask is None else mask.cpu(),
                dataset=row.dataset,
                prediction=names[row.prediction],
                score=row.scores[DIFFGUARD],
            )
        )
    return rows


def report_images(detector: Detector, table: ScoreTable, output: Path, accept: float | None) -> int:
    """Write `images.csv` and print a summary line.

    Args:
        detector: The calibrated detector.
        table: The scores of the folder's files.
        output: Where to write.
        accept: Share of ID images that the threshold accepts; None is the detector's.

    Returns:
        How many files were no images.

    Raises:
        UserError: Where no file was an image.
    """
    calibration, name = detector.calibration, detector.settings.decision
    if calibration is None:
        raise UserError("the detector is not calibrated: run train.py with stage calibrate")
    share = detector.settings.accept if accept is None else accept
    threshold = calibration.threshold(name, share)
    skipped = [str(table.path[row]) for row in np.flatnonzero(~table.valid)]
    for path in skipped:
        print(f"skipped, no image: {path}")  # noqa: T201
    rows = np.flatnonzero(table.valid)
    if not len(rows):
        raise UserError("none of the files is an image that can be read")
    flagged = 0
    with (
        replace_file(output / "images.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "prediction", "probability", "score", "percentile", "verdict"])
        for row in rows:
            score = float(table.scores[name][row])
            verdict = "ood" if score > threshold else "id"
            flagged += verdict == "ood"
            writer.writerow(
                [
                    table.path[row],
                    detector.classifier.class_names[table.prediction[row]],
                    repr(float(table.probability[row])),
                    repr(score),
                    f"{calibration.percentile(name, score):.1f}",
                    verdict,
                ]
            )
    print(  # noqa: T201
        f"{len(rows)} images: {flagged} flagged as OOD by {name} at the threshold that accepts "
        f"{share:.0%} of ID images; {len(skipped)} files skipped; {output / 'images.csv'}"
    )
    return len(skipped)
