r"""DPM-Solver++(2M): a multistep method on the clean estimate (Lu et al., 2022, arXiv:2211.01095).

With the half log-SNR $\lambda = \log\sqrt{\bar\alpha/(1-\bar\alpha)}$, the step from $\lambda$ to
$\lambda'$ replaces the clean estimate $\hat x_0$ of a DDIM step by

$$ \hat x_0 + \frac{\lambda' - \lambda}{2\,(\lambda - \lambda_{-1})}\,
(\hat x_0 - \hat x_{0,-1}) , $$

where $-1$ marks the previous step. The first step, and one between a clean state or pure noise and
another level, whose $\lambda$ is infinite, are DDIM steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.ddim import estimate, renoise
from diffguard.diffusion.schedule import expand
from diffguard.diffusion.solver import Shown, Step


class DpmSolverPP:
    """DPM-Solver++(2M) as a solver. The memory holds the clean estimate of the last step.

    The network sees each state with the timestep of its own level.
    """

    memory = 1
    passes = 1
    warm_up = (0, 0)
    keeps_memory = False

    def shown(self, x: Tensor, _memory: Tensor, step: Step) -> Shown:
        """The states themselves; see `Solver`."""
        return Shown(x, step.t, step.alpha)

    def advance(
        self, x: Tensor, memory: Tensor, step: Step, noise: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Make the step; see `Solver`."""
        clean, noise = estimate(x, noise, step.alpha, clip=step.clip, gradient=gradient)
        weight = _weight(step)
        # The same state with another clean estimate has another noise.
        opposite = torch.where(weight == 0, weight, weight * _log_snr(step.alpha).exp())
        change = clean - memory[0]
        extrapolated = clean + expand(weight, x) * change
        return (
            renoise(extrapolated, noise - expand(opposite, x) * change, step.alpha_next),
            clean.unsqueeze(0),
        )


def _weight(step: Step) -> Tensor:
    """`(N,)` weight of the change of the clean estimate."""
    now = _log_snr(step.alpha)
    weight = (_log_snr(step.alpha_next) - now) / (2 * (now - _log_snr(step.alpha_before)))
    return torch.where((step.count > 0) & weight.isfinite(), weight, 0.0)


def _log_snr(alpha: Tensor) -> Tensor:
    """λ of levels; infinite for clean states and for pure noise."""
    return (alpha.log() - (1 - alpha).log()) / 2
