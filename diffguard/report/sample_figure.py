"""The sample sheet of a diffusion model in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.utils import make_grid

from diffguard.report.figures import as_written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 1  # pixels around each sample
_LEAST = 480  # pixels; small grids are enlarged, so that the names are readable
_DPI = 100
_MOST_LETTERS = 24  # of a name


def sample_figure(images: Tensor, columns: int, class_names: Sequence[str]) -> Figure:
    """Samples in a grid, a row per class.

    Args:
        images: `(R * columns, C, H, W)` in [0, 1], row by row.
        columns: Samples per row.
        class_names: Names of the R rows; an empty name is not shown.
    """
    from matplotlib.figure import Figure

    grid = make_grid(images.cpu(), nrow=columns, padding=_GAP)
    height, width = grid.shape[1:]
    scale = max(1, round(_LEAST / min(height, width)))
    inches = (scale * width / _DPI + 1.5, scale * height / _DPI + 0.5)
    figure = Figure(figsize=inches, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    step = (height - _GAP) / len(class_names)
    names = [
        name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
        for name in class_names
    ]
    axes.set_yticks([_GAP / 2 + step * (row + 0.5) for row in range(len(names))], names)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    return as_written(figure)
