"""The detector of an evaluation: from the checkpoint, with the settings of the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from diffguard.denoisers.custom import cast_weights
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.seed_use import depends_on_seed
from diffguard.pretrained import checkpoint_file, is_shipped
from diffguard.printing import say
from diffguard.scores.calibration import Calibration
from diffguard.settings.decision import fallback_warning
from diffguard.settings.detector import DetectorSettings, score_names
from diffguard.settings.plain import completed, to_dict
from diffguard.settings.roles import ACCELERATING, COMBINING, DECIDING
from diffguard.storage.files import file_hash
from diffguard.training.precision import full_name, weight_dtype
from diffguard_cli.arguments import EvaluationArguments
from diffguard_cli.stored_config import calibration_precision


def load_detector(
    content: Mapping[str, Any], arguments: EvaluationArguments
) -> tuple[Detector, list[str]]:
    """Build the checkpoint's detector.

    Args:
        content: The checkpoint's content.
        arguments: The command line.

    Returns:
        The detector, and what changed and needs a new calibration: settings such as
        `detector.distances`, or `the seed`. If settings did, the detector has the checkpoint's.

    Raises:
        UserError: If the checkpoint names untrusted code, its diffusion model is missing, or the
            seed would change no score.
    """
    differences = _changed_settings(content["settings"], arguments.detector)
    refits = bool(differences) and _only_combines(content, arguments.detector, differences)
    is_reseeded = arguments.seed not in (None, content["seed"])
    detector = Detector.from_checkpoint(
        {**content, "seed": arguments.seed} if is_reseeded else content,
        settings=None if differences and not refits else to_dict(arguments.detector),
        trusted=arguments.trusted,
        folder=Path(arguments.ckpt).parent,
        diffusion=arguments.diffusion_model,
    )
    if arguments.seed is not None:
        _check_use_of_seed(detector, arguments.detector)
    cast_weights(detector.denoiser, weight_dtype(arguments.trainer.precision))
    if refits:
        calibration, rule = content["calibration"], detector.settings.fusion_rule()
        plain = {n: calibration["scores"][n] for n in detector.score_names(derived=False)}
        facts = detector.require_calibration()
        detector.calibration = Calibration.fit(
            plain, rule, facts.features, facts.passes, facts.quality
        )
        differences = []
    changes = [f"detector.{key}" for key in differences]
    changes += ["the seed"] if is_reseeded else []
    if not changes:
        rank_zero_only(say)(*_remarks(detector, content, arguments), file=sys.stderr)
    return detector, changes


def _remarks(
    detector: Detector, content: Mapping[str, Any], arguments: EvaluationArguments
) -> list[str]:
    """What to know of an evaluation that keeps the checkpoint's calibration."""
    lines = []
    if text := fallback_warning(detector.settings, detector.calibration):
        lines.append(f"warning: {text}")
    stored, present = calibration_precision(content["config"]), arguments.trainer.precision
    if full_name(stored) != full_name(present):
        lines.append(
            f"note: the detector was calibrated in {stored} and scores in {present} now, but its "
            "thresholds are those of the calibration: leave out --trainer.precision to score in "
            "the same precision"
        )
    return lines


def _check_use_of_seed(detector: Detector, settings: DetectorSettings) -> None:
    """Refuse seeds that would change no score."""
    if not depends_on_seed(detector.models.with_settings(settings)):
        raise UserError(
            "--seeds would give equal scores, because no method of this detector draws noise: "
            "train with several seeds and name all checkpoints, --ckpt A/detector.ckpt "
            "B/detector.ckpt"
        )


def _changed_settings(original: Mapping[str, Any], settings: DetectorSettings) -> list[str]:
    """Settings that differ from the checkpoint's and change a score."""
    ignored = (*DECIDING, *ACCELERATING)
    values, original = to_dict(settings), completed(original)
    return [key for key in values if key not in ignored and values[key] != original.get(key)]


def _only_combines(
    content: Mapping[str, Any], settings: DetectorSettings, keys: Sequence[str]
) -> bool:
    """Whether the changed settings only select and combine scores in the checkpoint."""
    names = score_names(settings, derived=False)
    return set(keys) <= set(COMBINING) and set(names) <= set(content["calibration"]["scores"])


def results_folder(ckpt: str) -> Path:
    """The folder of the results without `--output`: beside the checkpoint, or below `runs`."""
    return Path("runs") / f"{ckpt}_detector" if is_shipped(ckpt) else Path(ckpt).parent


def identity_of(arguments: EvaluationArguments) -> dict[str, Any]:
    """What the scores depend on besides the settings and the data."""
    return {
        "checkpoint": file_hash(checkpoint_file(arguments.ckpt)),
        "precision": arguments.trainer.precision,
    }
