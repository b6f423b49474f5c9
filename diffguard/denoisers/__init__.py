"""Diffusion models as denoisers, and how they are built and stored."""
