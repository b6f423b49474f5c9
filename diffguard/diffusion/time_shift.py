r"""Time-Shift: DDIM with the timestep that fits the state (Li et al., 2024, arXiv:2305.15583).

The states of a sampler have other noise levels than those that the network saw in training
(exposure bias). From timesteps near that of a state, Time-Shift takes the one whose noise level
$1 - \bar\alpha$ is closest to the variance of the state's pixels, and shows it to the network. The
step itself stays that of DDIM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.schedule import NoiseSchedule, Pairing
from diffguard.diffusion.solver import Shown, Step


class TimeShift(Ddim):
    """Time-Shift as a solver.

    Args:
        schedule: All levels of the diffusion model.
        pairing: As in `Ddim`; the shift is added to DDIM's timestep.
        window: Timesteps are shifted by up to half of this.
        cutoff: States at this timestep or below are not shifted, because their variance is that of
            the image.
    """

    def __init__(
        self, schedule: NoiseSchedule, pairing: Pairing, *, window: int, cutoff: int
    ) -> None:
        super().__init__(pairing)
        self.window = window
        self.cutoff = cutoff
        self._noise_levels = 1 - schedule.alphas_cumprod

    def shown(self, x: Tensor, _memory: Tensor, step: Step) -> Shown:
        """The states, with shifted timesteps; see `Solver`."""
        shown = super().shown(x, _memory, step)
        last = len(self._noise_levels) - 1
        half = self.window // 2
        shifts = torch.arange(-half, half + 1, device=x.device)
        candidates = (step.t.unsqueeze(1) + shifts).clamp(0, last)
        levels = self._noise_levels.to(x.device, x.dtype, non_blocking=True)
        fits = levels.index_select(0, candidates.flatten()).view_as(candidates)
        best = (fits - x.flatten(1).var(1).unsqueeze(1)).abs().argmin(1, keepdim=True)
        shift = candidates.gather(1, best).squeeze(1) - step.t
        shift = torch.where(step.t > self.cutoff, shift, 0)
        return shown._replace(t=(shown.t + shift).clamp(0, last))
