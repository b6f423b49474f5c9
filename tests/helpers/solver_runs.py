"""A plain loop for solvers, in which every row makes steps of its own."""

import torch

from diffguard.diffusion.levels import Levels


def upward(depth):
    """The inversion steps of a row."""
    return [(True, index) for index in range(depth)]


def downward(start):
    """The synthesis steps of a row."""
    return [(False, index) for index in range(start, -1, -1)]


@torch.no_grad()
def run(solver, plan, network, x, programs, *, clip=False, guide=None, staggered=False):
    """Rows at the end of their programs.

    Args:
        solver: The solver.
        plan: Timesteps and levels.
        network: `(x, t) -> ε`.
        x: `(N, …)` states.
        programs: For each row its steps `(up, index)`, or those of all rows.
        clip: Clamp the clean estimates, except that of an image.
        guide: `(shown, ε, rows) -> gradient`, in synthesis steps only.
        staggered: Begin one row after the other, so that each call mixes all kinds of passes.

    Returns:
        `(N, …)` states, and the number of passes of each row.
    """
    rows = len(x)
    programs = programs if isinstance(programs[0], list) else [programs] * rows
    levels, x = Levels(plan), x.clone()
    memory = x.new_zeros(solver.memory, *x.shape)
    count, part, place = torch.zeros(3, rows, dtype=torch.int64)
    passes, tick = [0] * rows, 0
    while True:
        active = [
            row
            for row in range(rows)
            if place[row] < len(programs[row]) and not (staggered and row > tick)
        ]
        tick += 1
        if not active and tick > rows:
            return x, passes
        if not active:
            continue
        current = [programs[row][place[row]] for row in active]
        up, index = (torch.tensor(values) for values in zip(*current, strict=True))
        clips = ~up | (index > 0) if clip else None
        step = levels.step(up, index, count[active], part[active], clips)
        shown = solver.shown(x[active], memory[:, active], step)
        noise, gradient = network(shown.x, shown.t), None
        if guide is not None:
            gradient = guide(shown, noise, active) * (~up).view(-1, 1, 1, 1)
        x[active], memory[:, active] = solver.advance(
            x[active], memory[:, active], step, noise, gradient
        )
        for row in active:
            passes[row] += 1
            part[row] += 1
            direction = programs[row][place[row]][0]
            warm_up = solver.warm_up[direction] if count[row] == 0 else 0
            if part[row] == solver.passes + warm_up:
                part[row], place[row], count[row] = 0, place[row] + 1, count[row] + 1
                rest = programs[row][place[row] :]
                turns = direction and rest and not rest[0][0]
                if turns and not solver.keeps_memory:
                    memory[:, row], count[row] = 0, 0


def round_trip(solver, plan, network, x, depth, **options):
    """Images after inversion to `depth` and synthesis from there."""
    return run(solver, plan, network, x, upward(depth) + downward(depth - 1), **options)[0]
