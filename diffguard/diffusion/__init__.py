"""The mathematics of diffusion: schedules, solvers, guidance, early stop."""
