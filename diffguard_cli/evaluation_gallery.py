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
        reconstruct_all: Whether the other images are reconstructed again too; otherwise they have
            the pictures that were kept while they were scored.

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
    typical = np.array([*pictured], dtype=np.intp)
    rows = gallery_rows(gallery, groups, threshold, typical, pictures.sample)
    others = rows[~np.isin(rows, typical)]
    if reconstruct_all:
        pictured |= {row: thumbnails(part) for row, part in pictures.reconstructions(others)}
    else:
        pictured |= dict(pictures.thumbnails(others))
    group_of = [groups.get(name, "") for name in table.dataset_names]
    return [
        gallery.image(row, pictured[row], group_of[table.dataset[row]]) for row in rows.tolist()
    ]
