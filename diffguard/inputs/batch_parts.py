"""The parts of a batch in the forms that users' loaders give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class BatchParts(NamedTuple):
    """The parts of a batch or of a single image, unchecked.

    Attributes:
        images: The images; the whole batch if it has another form.
        labels: Their labels; None without labels.
        errors: Why each image could not be read, an empty text if it could; None if the batch does
            not have this part.
    """

    images: Any
    labels: Any = None
    errors: Any = None


def batch_parts(batch: Any) -> BatchParts:
    """Divide a batch into its parts.

    Args:
        batch: A mapping with `image` and perhaps `label` and `error`, a pair of images and labels,
            or images.
    """
    if isinstance(batch, Mapping) and "image" in batch:
        return BatchParts(batch["image"], batch.get("label"), batch.get("error"))
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return BatchParts(*batch)
    return BatchParts(batch)
