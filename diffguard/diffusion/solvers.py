"""The solvers by name."""

from __future__ import annotations

from typing import get_args

from diffguard.diffusion.bdia import Bdia
from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.dpm_solver import DpmSolverPP
from diffguard.diffusion.edict import Edict
from diffguard.diffusion.pndm import Pndm
from diffguard.diffusion.schedule import NoiseSchedule, Pairing
from diffguard.diffusion.solver import Solver, SolverName
from diffguard.diffusion.time_shift import TimeShift

SOLVERS: tuple[SolverName, ...] = get_args(SolverName)


def build_solver(
    name: SolverName, pairing: Pairing, schedule: NoiseSchedule, *, window: int, cutoff: int
) -> Solver:
    """Build a solver.

    Args:
        name: Its name.
        pairing: Which timestep an inversion step of DDIM shows, see `Ddim`.
        schedule: All levels of the diffusion model, from which `time_shift` chooses.
        window: Width of the choice of `time_shift` in timesteps.
        cutoff: Timestep from which on `time_shift` chooses.
    """
    if name == "time_shift":
        return TimeShift(schedule, pairing, window=window, cutoff=cutoff)
    if name == "ddim":
        return Ddim(pairing)
    others: dict[str, type[Solver]] = {
        "pndm": Pndm,
        "dpm_solver_pp": DpmSolverPP,
        "edict": Edict,
        "bdia": Bdia,
    }
    return others[name]()
