"""The gallery of an evaluation on ID and OOD sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffguard.report.cases import Cases
from diffguard.report.gallery import Gallery, GalleryImage, Judge
from diffguard.report.gallery_rows import gallery_rows
from diffguard.report.html.thumbnails import Thumbnail, thumbnails
from diffguard.report.panel import PanelRow
from diffguard_cli.pictures import Pictures


def evaluation_gallery(
    pictures: Pictures,
    judge: Judge,
    groups: Mapping[str, str],
    threshold: float,
    panels: Sequence[tuple[Cases, Sequence[PanelRow]]],
    *,
    reconstruct_all: bool,
) -> list[GalleryImage]:
    """The images of the gallery, the hardest mistakes first.

    Args:
        pictures: Makes pictures of the images.
        judge: What turns scores into verdicts.
        groups: Set name -> `id`, `near` or `far`.
        threshold: The score above which an image is OOD.
        panels: Images that already have all pictures.
        reconstruct_all: Whether the other images get all pictures too, instead of their input.

    Raises:
        UserError: If the rule of decision needs more ID validation images.
    """
    table = pictures.table
    gallery = Gallery(table, judge)
    pictured: dict[int, Sequence[Thumbnail]] = {
        row: thumbnails(picture)
        for cases, part in panels
        for row, picture in zip(cases.rows.tolist(), part, strict=True)
    }
    rows = gallery_rows(gallery, groups, threshold, np.array([*pictured], dtype=np.intp))
    others = rows[~np.isin(rows, [*pictured])]
    make = pictures.reconstructions if reconstruct_all else pictures.inputs
    pictured |= {row: thumbnails(picture) for row, picture in make(others)}
    group_of = [groups.get(name, "") for name in table.dataset_names]
    return [
        gallery.image(row, pictured[row], group_of[table.dataset[row]]) for row in rows.tolist()
    ]
