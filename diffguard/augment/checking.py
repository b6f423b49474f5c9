"""Rejects edits that failed, and makes them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from diffguard.augment.editor import Editor

# Standard deviation of the pixels below which an image counts as blank.
_BLANK = 0.02
# An edit with less than this share of the original's standard deviation has collapsed.
_COLLAPSED = 0.3


class Fault(IntEnum):
    """Why an edit is rejected.

    Attributes:
        NONE: It is accepted.
        BLANK: All pixels are nearly alike, or some are not finite.
        COLLAPSED: It has lost most of the original's contrast.
        LABEL: The classifier sees another class.
    """

    NONE = 0
    BLANK = 1
    COLLAPSED = 2
    LABEL = 3


Classify = Callable[[Tensor], Tensor]


def find_faults(
    originals: Tensor, edits: Tensor, labels: Tensor, classify: Classify | None
) -> Tensor:
    """The fault of each edit.

    An original that is nearly blank may have a blank edit. If the classifier does not recognize the
    original, its edit may also keep the class that the classifier sees in the original.

    Args:
        originals: `(N, C, H, W)` in [0, 1].
        edits: Their edits, same shape.
        labels: int64 `(N,)`, the classes of the originals.
        classify: Maps images to predicted classes int64 `(N,)`; None does not check the label.

    Returns:
        int64 `(N,)`, values of `Fault`.
    """
    contrast, before = (images.flatten(1).std(1) for images in (edits, originals))
    blank = ~edits.flatten(1).isfinite().all(1) | ((contrast < _BLANK) & (before >= _BLANK))
    faults = torch.zeros(len(edits), dtype=torch.int64)
    if classify is not None:
        classes = classify(edits.nan_to_num())
        wrong = (classes != labels.to(classes)) & (classes != classify(originals))
        faults[wrong.cpu()] = Fault.LABEL
    faults[(contrast < _COLLAPSED * before).cpu()] = Fault.COLLAPSED
    faults[blank.cpu()] = Fault.BLANK
    return faults


@dataclass
class Edits:
    """Edits of some images.

    Attributes:
        images: `(N, C, H, W)` in [0, 1]; the original where no edit was accepted.
        is_edit: `(N,)` bool, whether an edit was accepted.
        rejections: int64 `(4,)`, number of rejected edits by `Fault`.
    """

    images: Tensor
    is_edit: Tensor
    rejections: Tensor


def make_edits(
    editor: Editor, images: Tensor, labels: Tensor, classify: Classify | None, attempts: int
) -> Edits:
    """Edit images, and edit those again whose edit is rejected.

    Args:
        editor: Makes the edits.
        images: `(N, C, H, W)` in [0, 1].
        labels: int64 `(N,)`, their classes.
        classify: See `find_faults`.
        attempts: Edits of an image that are tried, at least 1.
    """
    accepted, is_edit = images.clone(), torch.zeros(len(images), dtype=torch.bool)
    rejections = torch.zeros(len(Fault), dtype=torch.int64)
    for attempt in range(attempts):
        rows = (~is_edit).nonzero()[:, 0]
        if not len(rows):
            break
        originals = images[rows.to(images.device)]
        edits = editor.edit(originals, labels[rows].tolist(), attempt)
        faults = find_faults(originals, edits, labels[rows], classify)
        good = faults == Fault.NONE
        accepted[rows[good].to(images.device)] = edits[good.to(images.device)]
        is_edit[rows[good]] = True
        rejections += torch.bincount(faults[~good], minlength=len(Fault))
    return Edits(accepted, is_edit, rejections)
