"""A note about the image lists of an evaluation: which of them are OpenOOD's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LABELS = {"differs": "not OpenOOD v1.5's, although named like it", "unverified": "unverified"}


def image_list_notes(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The note as (label, text); empty if no set is read from an image list.

    Args:
        settings: The settings of a run. `image_lists` has, for each set with a list, `list` (its
            version), `n` (its images) and `scored` (those that were scored). Joined runs have
            scored the same images, so the first of them is described.
    """
    if runs := settings.get("runs"):
        settings = runs[0]["settings"]
    groups: dict[str, list[str]] = {}
    for name, entry in settings.get("image_lists", {}).items():
        part = "" if entry["scored"] == entry["n"] else f"{entry['scored']:,} of "
        label = _LABELS.get(entry["list"], entry["list"])
        groups.setdefault(label, []).append(f"{name} ({part}{entry['n']:,} images)")
    texts = [f"{label}: {', '.join(sets)}" for label, sets in groups.items()]
    return [("Image lists", "; ".join(texts))] if texts else []
