"""Which images of a gallery have no reconstruction, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffguard.report.gallery import GalleryImage


def reconstruction_notes(images: Sequence[GalleryImage]) -> Iterator[str]:
    """Sentences on the images without a reconstruction; none if all have one."""
    without = [image for image in images if not image.is_redrawn]
    clear = sum(image.has_no_pass for image in without)
    if clear:
        yield (
            f"{_images(clear)} no reconstruction, because the verdict did not need the diffusion "
            "model."
        )
    if rest := len(without) - clear:
        yield f"{_images(rest)} no reconstruction on disk; --panels all makes it."


def _images(count: int) -> str:
    return f"{count:,} image has" if count == 1 else f"{count:,} images have"
