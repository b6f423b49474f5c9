"""The model card of a detector: its data, models, decision, settings and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from diffguard.checkpoint.parts import DetectorParts
from diffguard.errors import UserError
from diffguard.scores.conformal import as_percent, needed_images
from diffguard.settings.decision import decision_of, has_exact_guarantee
from diffguard.settings.plain import to_dict
from diffguard.storage.json_files import read_json
from diffguard.storage.paths import require_file

# A longer list of classes is cut.
_SHOWN_CLASSES = 20
_USE = """```python
from diffguard import Detector

detector = Detector.from_pretrained("owner/name")  # a hub id or a folder
verdicts = detector.predict(["image.jpg"])
```"""


class _Row(TypedDict):
    score: str
    dataset: str
    group: str
    auroc: float
    fpr95_id_positive: float


class _Results(TypedDict):
    rows: list[_Row]


def model_card(parts: DetectorParts, results: str | Path | None = None) -> str:
    """The text of a model card in Markdown, without the metadata at its head.

    Args:
        parts: The parts of a calibrated detector.
        results: `results.json` of an evaluation, whose figures the card shows.

    Raises:
        UserError: If the detector is not calibrated, or `results` is not such a file.
    """
    if parts.calibration is None:
        raise UserError("only a calibrated detector has a model card: call detector.calibrate")
    sections = {
        "Use": _USE,
        "Data": _data(parts),
        "Models": _models(parts),
        "Decision": _decision(parts),
        "Figures": _figures(parts, results),
        "Settings": f"```json\n{json.dumps(to_dict(parts.settings), indent=2)}\n```",
    }
    blocks = ["# Out-of-distribution detector\n\nDiffGuard (arXiv 2308.07687) around a classifier."]
    blocks += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(blocks) + "\n"


def _data(parts: DetectorParts) -> str:
    names = list(parts.classifier.class_names)
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    kind = "gray" if parts.image_channels == 1 else "color"
    data = parts.origin.config.get("data", {})
    rows = [
        f"- ID data: {_line(data.get('name', 'the data of the user'))}",
        f"- Classes ({len(names)}): {', '.join(map(_line, names[:_SHOWN_CLASSES]))}{more}",
        f"- ID validation images: {_count(parts)}",
        f"- Working images: {parts.image_size} × {parts.image_size} pixels, {kind}",
    ]
    if parts.reference is not None:
        rows.insert(3, f"- ID training images of the baselines: {len(parts.reference.labels)}")
    return "\n".join(rows)


def _models(parts: DetectorParts) -> str:
    classifier, diffusion = parts.origin.classifier, parts.origin.diffusion
    arch = type(parts.classifier.network).__name__ if classifier is None else classifier.arch
    network = type(parts.denoiser).__name__ if diffusion is None else diffusion.network
    return f"- Classifier: `{_line(arch)}`\n- Diffusion model: `{_line(network)}`"


def _decision(parts: DetectorParts) -> str:
    settings, calibration = parts.settings, parts.calibration
    assert calibration is not None
    if calibration.count < needed_images(settings.accept):
        return (
            f"With only {calibration.count} ID validation images, the detector gives scores but no "
            f"verdicts: to accept {as_percent(settings.accept)} of ID images takes at least "
            f"{needed_images(settings.accept)}."
        )
    decision = decision_of(settings, calibration)
    threshold = calibration.threshold(decision, settings.accept)
    low, high = calibration.accept_interval(settings.accept)
    least = "at least" if has_exact_guarantee(settings, decision) else "about"
    return (
        f"An image is OOD if its score `{decision}` is above {threshold:.6g}. On average "
        f"over validation sets, such a threshold accepts {least} {as_percent(settings.accept)} of "
        f"new ID images. With {_count(parts)} ID validation images, it accepts {low:.1%} to "
        f"{high:.1%} of them (95% interval)."
    )


def _figures(parts: DetectorParts, results: str | Path | None) -> str:
    if results is None:
        return "No evaluation on OOD data is recorded here."
    content = read_json(require_file(results, "results"), _Results)
    decision = decision_of(parts.settings, parts.calibration)
    rows = [row for row in content["rows"] if row["score"] == decision]
    if not rows:
        raise UserError(
            f"{results} has no metrics of {decision}, the score that decides: expected the "
            "results.json of an evaluation of this detector"
        )
    lines = ["| OOD set | group | AUROC (%) | FPR@95 (%) |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [_row(row) for row in rows])


def _row(row: _Row) -> str:
    values = (
        _line(row["dataset"]),
        _line(row["group"]),
        f"{100 * row['auroc']:.1f}",
        f"{100 * row['fpr95_id_positive']:.1f}",
    )
    return f"| {' | '.join(values)} |"


def _count(parts: DetectorParts) -> int:
    assert parts.calibration is not None
    return parts.calibration.count


def _line(text: Any) -> str:
    """A name on one line, without the marks of a table."""
    return " ".join(str(text).split()).replace("|", "/").replace("`", "'")
