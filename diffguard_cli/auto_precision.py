"""The precision `auto`: measured by the first calibration, and kept by all that follows.

The threshold of a detector belongs to the precision of its calibration. An evaluation therefore
does not measure anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffguard.methods.models import Models
from diffguard.score_table.manifest import read_manifest
from diffguard.training.precision import AUTO
from diffguard_cli.measurements import paying_precision
from diffguard_cli.run import Run
from lightning_modules.connection import connect, first_process_does
from lightning_modules.trainer import scoring_trainer


def with_precision(run: Run, models: Models, identity: Mapping[str, Any], title: str) -> Run:
    """The run with the precision of its calibration, also in the config that is stored.

    The stored config records as `auto_precision` that it was measured.

    An interrupted calibration of the same models keeps the precision that it began with.

    Args:
        run: The run.
        models: The networks and settings.
        identity: Values that identify the models, as in the manifest of the calibration.
        title: Title of the progress bar.
    """
    if run.trainer.precision != AUTO:
        return run
    trainer = scoring_trainer(run.trainer, title)
    models.to(trainer.strategy.root_device)
    connect(trainer)
    precision = first_process_does(
        trainer, lambda: _earlier_precision(run, identity) or _measured_precision(run, models)
    )
    trainer_config = {**run.config["trainer"], "precision": precision}
    config = {**run.config, "trainer": trainer_config, "auto_precision": precision}
    return replace(run, trainer=replace(run.trainer, precision=precision), config=config)


def _earlier_precision(run: Run, identity: Mapping[str, Any]) -> str | None:
    for path in sorted(run.folder.glob("calibration*/manifest.json")):
        manifest = read_manifest(path.parent) or {}
        if all(manifest.get(key) == value for key, value in identity.items()):
            precision: str | None = manifest.get("precision")
            return precision
    return None


def _measured_precision(run: Run, models: Models) -> str:
    images = len(run.data.id_stream("validation"))
    precision, reason = paying_precision(models, run.data.read_size, images)
    run.say(f"precision: {precision} ({reason})")
    return precision
