r"""Noise schedules and the respaced timesteps of DDIM.

A schedule is the cumulative signal $\bar\alpha_t$ of the forward process

$$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon , \qquad t = 0 \dots T-1 $$

(Ho et al., 2020). Timesteps are 0-based. Everything here is float64 on the CPU; samplers cast.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffguard.errors import UserError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["even", "stride", "shifted", "trailing"]
Pairing = Literal["current", "target"]
FirstLevel = Literal["clean", "first"]
# Defaults of a sampler.
SPACING: Spacing = "even"
PAIRING: Pairing = "target"
FIRST_LEVEL: FirstLevel = "clean"
EXTRA_START = 0


# With less signal, a division by √ᾱ overflows float32. Published schedules end above 1e-13.
_LEAST_SIGNAL = 1e-30


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Shape per-sample values `(N,)` for arithmetic with `like` `(N, …)`, in its dtype."""
    return values.to(like.device, like.dtype, non_blocking=True).view(-1, *[1] * (like.ndim - 1))


def where_rows(rows: Tensor, values: Tensor, other: Tensor) -> Tensor:
    """`values` `(N, …)` in the rows `(N,)` that are True, and `other` `(N, …)` in the rest."""
    condition = rows.to(values.device, non_blocking=True).view(-1, *[1] * (values.ndim - 1))
    return torch.where(condition, values, other)


class NoiseSchedule:
    """The noise levels and the prediction type of a diffusion model.

    Args:
        betas: `(T,)` noise variances in (0, 1), float64.
        prediction_type: What the network predicts: the noise (`epsilon`), the velocity
            (`v_prediction`, Salimans & Ho, 2022) or the clean image (`sample`).

    Raises:
        UserError: If the prediction type is unknown or the betas are invalid.

    Attributes:
        alphas_cumprod: `(T,)` float64, strictly decreasing in (0, 1).

    Example:
        >>> schedule = NoiseSchedule(torch.tensor([0.1, 0.5], dtype=torch.float64))
        >>> schedule.alphas_cumprod
        tensor([0.9000, 0.4500], dtype=torch.float64)
    """

    def __init__(self, betas: Tensor, prediction_type: PredictionType = "epsilon") -> None:
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise UserError(
                f"prediction type {prediction_type!r} is not known, "
                "expected epsilon, v_prediction or sample"
            )
        self.betas = betas.double()
        if (
            self.betas.ndim != 1
            or not len(betas)
            or not ((self.betas > 0) & (self.betas < 1)).all()
        ):
            raise UserError(
                "a noise schedule must have one or more betas between 0 and 1, got "
                f"{_summary(self.betas)}: check the scheduler's num_train_timesteps, beta_start, "
                "beta_end and trained_betas"
            )
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        first, last = float(self.alphas_cumprod[0]), float(self.alphas_cumprod[-1])
        if first == 1 or last < _LEAST_SIGNAL:
            raise UserError(
                f"the betas {_summary(self.betas)} of the noise schedule leave a share of the "
                f"signal of {first:g} at the first timestep and {last:g} at the last one: expected "
                f"less than 1 and at least {_LEAST_SIGNAL:g}; check the scheduler's beta_start, "
                "beta_end and trained_betas"
            )
        self.prediction_type = prediction_type
        self._tables: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.betas)

    @classmethod
    def linear(
        cls,
        steps: int = 1000,
        start: float = 1e-4,
        end: float = 0.02,
        prediction_type: PredictionType = "epsilon",
    ) -> NoiseSchedule:
        """Betas linear in t (Ho et al., 2020; guided-diffusion)."""
        return cls(torch.linspace(start, end, steps, dtype=torch.float64), prediction_type)

    @classmethod
    def scaled_linear(
        cls,
        steps: int = 1000,
        start: float = 0.0015,
        end: float = 0.0195,
        prediction_type: PredictionType = "epsilon",
    ) -> NoiseSchedule:
        """Betas linear in their square root (latent diffusion, Rombach et al., 2022)."""
        roots = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64)
        return cls(roots**2, prediction_type)

    @classmethod
    def cosine(
        cls, steps: int = 1000, prediction_type: PredictionType = "epsilon", max_beta: float = 0.999
    ) -> NoiseSchedule:
        """Squared cosine of Nichol & Dhariwal (2021), eq. 17, betas cut at `max_beta`."""
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        signal = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls((1 - signal[1:] / signal[:-1]).clamp(max=max_beta), prediction_type)

    def _levels(self, t: Tensor) -> Tensor:
        """ᾱ of timesteps `(N,)`, on their device; no network call waits for a copy from it."""
        if t.device not in self._tables:
            # Apple's GPUs have no float64.
            dtype = torch.float32 if t.device.type == "mps" else torch.float64
            self._tables[t.device] = self.alphas_cumprod.to(t.device, dtype)
        return self._tables[t.device].index_select(0, t)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Draw x_t given x_0.

        Args:
            x0: `(N, …)` clean states.
            noise: `(N, …)` standard normal.
            t: `(N,)` int64 timesteps, 0-based.

        Returns:
            `(N, …)` noised states.
        """
        alpha = expand(self._levels(t), x0)
        return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise

    def training_target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The training target at x_t, `(N, …)`: ε, v or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        alpha = expand(self._levels(t), x0)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0

    def to_noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Convert a network's output to a noise prediction.

        Args:
            output: `(N, …)` the network's output at `x_t`.
            x_t: `(N, …)` noised states.
            t: `(N,)` int64 timesteps, 0-based.

        Returns:
            `(N, …)` ε.
        """
        if self.prediction_type == "epsilon":
            return output
        alpha = expand(self._levels(t), x_t)
        if self.prediction_type == "v_prediction":
            return alpha.sqrt() * output + (1 - alpha).sqrt() * x_t
        return (x_t - alpha.sqrt() * output) / (1 - alpha).sqrt()


def _summary(betas: Tensor) -> str:
    values = betas.flatten().tolist()
    first = ", ".join(f"{value:g}" for value in values[:4])
    return f"{len(values)} ({first}{', …' if len(values) > 4 else ''})"


def predict_clean(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """The clean estimate x̂_0.

    Args:
        x: `(N, …)` states.
        noise: `(N, …)` predicted noise ε.
        alpha: `(N,)` float64 levels ᾱ of the states, in (0, 1].

    Returns:
        `(N, …)`.

    Example:
        >>> x, noise = torch.tensor([[0.9]]), torch.tensor([[0.5]])
        >>> predict_clean(x, noise, alpha=torch.tensor([0.64]))
        tensor([[0.7500]])
    """
    return (x - expand((1 - alpha).sqrt(), x) * noise) / expand(alpha.sqrt(), x)
