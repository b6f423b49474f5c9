"""The report on the images of `--images`: pictures, explanations and `report.html`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffguard.checkpoint.file import library_versions
from diffguard.printing import say
from diffguard.report.gallery import MOST_IMAGES, Gallery
from diffguard.report.html.images import write_images
from diffguard.report.html.thumbnails import Thumbnail, thumbnails
from diffguard.report.panel import PanelRow, panel
from diffguard.report.verdicts import panel_name
from diffguard.score_table.timing import read_timing
from diffguard.settings.plain import to_dict
from diffguard.storage.files import refuse_links, replace_file
from diffguard_cli.arguments import EvaluationArguments
from diffguard_cli.finished_run import FinishedRun
from diffguard_cli.pictures import Pictures
from diffguard_cli.scoring import ScoringRun

# Images that are reconstructed for report.html without --panels and --explain.
_PICTURED = 24


def report_on_images(
    scoring: ScoringRun,
    run: FinishedRun,
    gallery: Gallery,
    arguments: EvaluationArguments,
    lines: Sequence[str],
) -> None:
    """Reconstruct the most suspicious images again for their pictures, and write `report.html`.

    With `--explain`, all images are reconstructed, and each gets a panel in `explanations/`.

    Args:
        scoring: The scoring run.
        run: Its result.
        gallery: The images with their verdicts.
        arguments: The command line.
        lines: Further sentences for the report.
    """
    folder, table = scoring.folder, gallery.table
    scores = table.scores[gallery.judge.decision.score][gallery.rows]
    rows = gallery.rows[np.argsort(-scores, kind="stable")]
    chosen = rows if arguments.explain else rows[: _pictured(scoring, arguments)]
    if arguments.explain:
        refuse_links(folder / "explanations")
        say(f"explaining {len(rows):,} images", file=sys.stderr)
    pictures = Pictures(scoring, run, table)
    pictured: dict[int, Sequence[Thumbnail]] = {}
    for row, picture in pictures.reconstructions(chosen):
        if arguments.explain:
            _write_panel(folder / panel_name(table, row), picture, gallery.image(row).text)
        if len(pictured) < MOST_IMAGES:
            pictured[row] = thumbnails(picture)
    shown = rows[:MOST_IMAGES]
    pictured |= dict(pictures.thumbnails(shown[len(pictured) :]))
    images = [gallery.image(row, pictured[row]) for row in shown.tolist()]
    write_images(
        folder / "report.html",
        gallery,
        images,
        {"command": arguments.command, **_settings(scoring, run)},
        lines,
    )
    say(f"Report: {folder / 'report.html'}")


def _pictured(scoring: ScoringRun, arguments: EvaluationArguments) -> int:
    """Images that are reconstructed; by default none if the decision needs no diffusion model."""
    if arguments.panels == "all":
        return MOST_IMAGES
    if arguments.panels is not None:
        return arguments.panels
    return 0 if scoring.selection.skip == "all" else _PICTURED


def _write_panel(path: Path, picture: PanelRow, text: str) -> None:
    with replace_file(path) as temporary:
        panel([picture], text).savefig(temporary, format="png", dpi=120)


def _settings(scoring: ScoringRun, run: FinishedRun) -> dict[str, Any]:
    """What the report states about the run."""
    detector, timing = scoring.detector, read_timing(scoring.folder)
    speed = timing["images"] / timing["seconds"] if timing["seconds"] else None
    return {
        "seed": detector.seed,
        "device": str(detector.device),
        **({"cost": f"{speed:.4g} images per second"} if speed else {}),
        "batch_size": run.batch_size,
        "libraries": library_versions(),
        **scoring.identity,
        "detector": to_dict(detector.settings),
    }
