"""Pages of the documentation."""

from __future__ import annotations

from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "diffusion-models.md").read_text(encoding="utf-8")
