"""DiffuseMix: training images mixed with edits of their own by a diffusion model."""
