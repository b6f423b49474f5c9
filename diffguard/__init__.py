"""DiffGuard: out-of-distribution detection by diffusion reconstruction (arXiv 2308.07687)."""
