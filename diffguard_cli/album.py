"""Pictures of reconstructions that are kept while images are scored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffguard.methods.items import Scored
from diffguard.report.candidates import Candidates
from diffguard.report.html.thumbnail_file import ThumbnailWriter
from diffguard.report.html.thumbnails import SMALL_SIDE, thumbnails
from diffguard.report.panel import INPUT, PanelRow


class Album:
    """Keeps thumbnails of the reconstructions that the gallery may show.

    Args:
        folder: The evaluation folder.
        rank: Number of this process.
        candidates: The images that the gallery may show.
    """

    def __init__(self, folder: Path, rank: int, candidates: Candidates) -> None:
        self._writer, self._candidates = ThumbnailWriter(folder, rank), candidates

    def add(self, images: Iterable[Scored]) -> None:
        """Keep the pictures of finished images.

        Raises:
            UserError: If they cannot be written.
        """
        self._writer.write(
            (image.row.dataset, image.row.index, thumbnails(row, SMALL_SIDE, without=(INPUT,)))
            for image in images
            if (row := _pictures(image)) is not None and self._candidates.admits(image.row)
        )


def _pictures(image: Scored) -> PanelRow | None:
    """The pictures of an image; None without a reconstruction."""
    result = image.reconstruction
    if result is None:
        return None
    unguided = None if result.unguided is None else result.unguided.cpu()
    return PanelRow(
        image.item.image.cpu(), result.guided.cpu(), "", 0.0, image.row.dataset, unguided
    )
