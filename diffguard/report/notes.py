"""Notes below a table of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffguard.report.comparison_notes import comparison_notes
from diffguard.report.image_lists import image_list_notes
from diffguard.report.stages import stage_notes
from diffguard.report.tables import percent
from diffguard.scores.conformal import as_percent


def make_notes(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Notes below the table as (label, text): accuracy, cost, comparisons, images left out."""
    id_set, cost = results["id"], results["cost"]
    images = f"{id_set['dataset']}, {id_set['n']:,} images"
    notes = [("ID accuracy", f"{percent(id_set['accuracy'], 2)} % ({images})")]
    if id_set["accept"] is not None:
        share = as_percent(id_set["accept"])
        notes.append(("Threshold", f"chosen to accept {share} of new ID images on average"))
    units = {
        "images_per_second": "images per second",
        "network_passes_per_image": "network passes per image",
    }
    costs = [f"{cost[name]:.4g} {unit}" for name, unit in units.items() if name in cost]
    if costs:
        notes.append(("Cost", ", ".join([*costs, *_acceleration(results["settings"])])))
    notes += stage_notes(results)
    notes += comparison_notes(results)
    notes += image_list_notes(results["settings"])
    notes += [("Left out", why) for why in results["absent"].values()]
    errors = {name: count for name, count in results["errors"].items() if count}
    if errors:
        counts = ", ".join(f"{name} {count:,}" for name, count in errors.items())
        notes.append(("Left out", f"{sum(errors.values()):,} unreadable images ({counts})"))
    return notes


def _acceleration(settings: Mapping[str, Any]) -> list[str]:
    """What made the networks faster than in their plain form, and what `auto` left out."""
    config = settings.get("config", {})
    precision, texts = settings.get("precision", "32-true"), []
    if precision not in ("32", "32-true"):
        texts.append(str(precision))
    elif config.get("auto_precision") == precision:
        texts.append("float32 (chosen by auto)")
    if settings.get("compile"):
        texts.append("compiled network")
    elif config.get("detector", {}).get("compile") == "auto":
        texts.append("network not compiled (chosen by auto)")
    return texts
