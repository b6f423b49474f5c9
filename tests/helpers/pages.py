"""Pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = (_DOCS / "diffusion-models.md").read_text(encoding="utf-8")


def examples(page):
    """The Python code on a page of the documentation."""
    text = (_DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)
