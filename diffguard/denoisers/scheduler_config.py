"""Noise schedules from the config of a diffusers scheduler."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffguard.diffusion.schedule import NoiseSchedule, PredictionType
from diffguard.errors import UserError

# Published schedules have 1,000 timesteps, a few 4,000.
_MOST_TIMESTEPS = 100_000

# The lowest ᾱ of a schedule that ends on pure noise.
_LEAST_LEVEL = 2.0**-24


def schedule_from_config(config: Mapping[str, Any]) -> NoiseSchedule:
    """Read the noise levels of any diffusers scheduler's config.

    Args:
        config: The mapping in `scheduler_config.json`; missing keys take the defaults of the
            scheduler that it names.

    Raises:
        UserError: If the schedule is unknown, or the scheduler has no betas (flow matching, EDM).
    """
    config = {**_defaults_of(config.get("_class_name")), **config}
    prediction, kind = config["prediction_type"], config["beta_schedule"]
    if config["rescale_betas_zero_snr"]:
        return _ending_on_noise(config, prediction)
    if config["trained_betas"] is not None:
        return NoiseSchedule(_trained_betas(config["trained_betas"]), prediction)
    steps, start, end = _range_of(config)
    if kind == "linear":
        return NoiseSchedule.linear(steps, start, end, prediction)
    if kind == "scaled_linear":
        return NoiseSchedule.scaled_linear(steps, start, end, prediction)
    if kind == "squaredcos_cap_v2":
        return NoiseSchedule.cosine(steps, prediction)
    if kind in ("sigmoid", "laplace"):
        from diffusers import DDPMScheduler

        return NoiseSchedule(DDPMScheduler.from_config(dict(config)).betas, prediction)
    raise UserError(
        f"beta schedule {kind!r} is not known, expected linear, scaled_linear, "
        "squaredcos_cap_v2, sigmoid or laplace (or trained_betas in the scheduler's config)"
    )


def _ending_on_noise(config: Mapping[str, Any], prediction: PredictionType) -> NoiseSchedule:
    """A schedule whose last level is rescaled to no signal (Lin et al., 2024, alg. 1)."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    if prediction == "epsilon":
        raise UserError(
            "a scheduler with rescale_betas_zero_snr ends on pure noise, where ε holds no "
            "information about the image: expected prediction_type v_prediction or sample"
        )
    plain = schedule_from_config({**config, "rescale_betas_zero_snr": False})
    betas = rescale_zero_terminal_snr(plain.betas)
    # ᾱ = 0 would divide by zero; at the lowest level float32 still separates x_0 from the noise.
    betas[-1] = 1 - _LEAST_LEVEL / (1 - betas[:-1]).prod()
    return NoiseSchedule(betas, prediction)


def _trained_betas(values: Any) -> Tensor:
    """The betas that a scheduler's config lists."""
    line = f"trained_betas of the scheduler must be a list of numbers, got {values!r:.60}"
    try:
        betas = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(line) from error
    if betas.ndim != 1:
        raise UserError(line)
    return betas


def _range_of(config: Mapping[str, Any]) -> tuple[int, float, float]:
    """Number of timesteps, first and last beta of a scheduler's config."""
    steps, start, end = (config[k] for k in ("num_train_timesteps", "beta_start", "beta_end"))
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= _MOST_TIMESTEPS:
        text = f"{steps:,}" if isinstance(steps, int) else f"{steps!r:.60}"
        raise UserError(
            f"num_train_timesteps of the scheduler must be 1 to {_MOST_TIMESTEPS:,}, got {text}"
        )
    for name, value in (("beta_start", start), ("beta_end", end)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise UserError(
                f"{name} of the scheduler must be a number between 0 and 1, got {value!r:.60}"
            )
    return steps, float(start), float(end)


def _defaults_of(scheduler: str | None) -> dict[str, Any]:
    """Defaults of a scheduler of diffusers; those of DDPM if the scheduler is unknown."""
    import diffusers

    if scheduler is not None and not (
        isinstance(scheduler, str) and re.fullmatch(r"\w+Scheduler\w*", scheduler)
    ):
        raise UserError(
            f"the scheduler's class is {scheduler!r}, expected one such as DDIMScheduler"
        )
    cls = getattr(diffusers, scheduler or "", diffusers.DDPMScheduler)
    parameters = inspect.signature(cls).parameters
    if "beta_schedule" not in parameters:
        raise UserError(
            f"{scheduler} has no betas, which DDIM needs: expected the config of a scheduler that "
            "has, such as DDPMScheduler or DDIMScheduler"
        )
    ddpm = inspect.signature(diffusers.DDPMScheduler).parameters
    return {name: parameter.default for name, parameter in {**ddpm, **parameters}.items()}
