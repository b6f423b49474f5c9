"""The mathematics of diffusion: schedules, DDIM, guidance, early stop."""
