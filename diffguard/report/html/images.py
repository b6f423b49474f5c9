"""The report of a folder of images, or of single files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffguard.report.gallery import Gallery, GalleryImage
from diffguard.report.html.charts import Chart, score_chart
from diffguard.report.html.gallery_note import reconstruction_notes
from diffguard.report.html.page import Page, Skipped, write_page


def write_images(
    path: Path,
    gallery: Gallery,
    images: Sequence[GalleryImage],
    settings: Mapping[str, Any],
    lines: Sequence[str] = (),
) -> None:
    """Write `report.html` of a folder of images.

    Args:
        path: The file.
        gallery: All images with their verdicts.
        images: Those that are shown, the most suspicious first.
        settings: Settings and versions; `command`, `seed` and `device` are shown first.
        lines: Further sentences below the headline.

    Raises:
        UserError: If the file cannot be written.
    """
    table, decision = gallery.table, gallery.judge.decision
    count, flagged = len(gallery.rows), int(gallery.judgment.is_ood.sum())
    headline = (
        f"{flagged:,} of {count:,} image{'s' * (count != 1)} "
        f"look{'s' * (flagged == 1)} out of distribution"
    )
    rule = f"Flagged by {decision.score} {decision.rule()}."
    skipped = [
        Skipped(table.path[int(row)], str(table.error[row])) for row in np.flatnonzero(~table.valid)
    ]
    page = Page(
        title="Verdicts on images",
        headline=headline,
        score=decision.score,
        lines=[rule, decision.guarantee(gallery.judge.calibration), *lines],
        charts=[_chart(gallery)],
        images=images,
        gallery_note=_note(images, count),
        facts={
            "ID validation images": f"{gallery.judge.calibration.count:,}",
            "Files skipped": f"{len(skipped):,}",
            **{
                name.capitalize(): str(settings[name])
                for name in ("seed", "device", "cost")
                if name in settings
            },
        },
        settings=settings,
        skipped=skipped,
        commands=[settings["command"]] if "command" in settings else [],
    )
    write_page(path, page)


def _note(images: Sequence[GalleryImage], count: int) -> str:
    parts = []
    if len(images) < count:
        parts.append(
            f"The {len(images):,} most suspicious of {count:,} images; images.csv has all."
        )
    return " ".join([*parts, *reconstruction_notes(images)])


def _chart(gallery: Gallery) -> Chart:
    name, calibration = gallery.judge.decision.score, gallery.judge.calibration
    values = gallery.table.scores[name][gallery.rows]
    parts = {
        "ID validation images": calibration.reference(name).numpy(),
        "these images": values.astype(np.float64),
    }
    decision = gallery.judge.decision
    threshold = None if decision.fdr is not None else calibration.threshold(name, decision.accept)
    return score_chart(name, parts, threshold)
