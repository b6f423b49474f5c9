"""Distances that need images of a certain size."""

from __future__ import annotations

from collections.abc import Iterable

from diffguard.errors import UserError
from diffguard.scores.distance_names import check_size


def check_image_size(distances: Iterable[str], image_size: int) -> None:
    """Refuse distances that cannot be computed on images of a size.

    Args:
        distances: Names of distances, such as `DetectorSettings.reconstruction_distances`.
        image_size: Side of the working images in pixels.

    Raises:
        UserError: For a size that is not a positive whole number, or that is too small.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"image_size must be a whole number of at least 1, got {image_size!r}")
    for name in distances:
        check_size(name, image_size)
