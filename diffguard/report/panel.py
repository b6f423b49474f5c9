"""The pictures of scored images, and the panel that shows them: a row per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffguard.errors import UserError
from diffguard.report.figures import COLORS, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INPUT, CAM, UNGUIDED, GUIDED = "input", "CAM", "unguided", "guided"
DIFFERENCE = "|input − guided|"
# Color map of heat maps and differences.
HEAT = "magma"
# Opacity of a heat map over the input.
_OPACITY = 0.6


@dataclass(frozen=True)
class HeatMap:
    """A map over an image.

    Attributes:
        name: What it shows, for the heading.
        values: `(H, W)` in [0, 1].
    """

    name: str
    values: Tensor


@dataclass(frozen=True)
class PanelRow:
    """One image of a panel.

    Attributes:
        image: Input `(C, H, W)` in [0, 1], C = 1 or 3.
        guided: Reconstruction toward the predicted label, same shape and range; None if the
            diffusion model did not reconstruct the image.
        prediction: Predicted label, as shown to the reader.
        score: Its score, higher = more OOD.
        dataset: Name of its set.
        unguided: Reconstruction without guidance, same shape and range; None leaves a gap.
        mask: `(H, W)` in {0, 1}, the region of guidance; drawn as an outline on the input.
        cam: `(H, W)` in [0, 1], evidence for the predicted label; None leaves a gap.
        location: Where the difference of input and guided image lies for the classifier or DISTS;
            None leaves a gap.
    """

    image: Tensor
    guided: Tensor | None
    prediction: str
    score: float
    dataset: str
    unguided: Tensor | None = None
    mask: Tensor | None = None
    cam: Tensor | None = None
    location: HeatMap | None = None

    @property
    def pictures(self) -> dict[str, Tensor]:
        """Heading -> picture `(C, H, W)` or heat map `(H, W)`, both in [0, 1], in reading order."""
        pictures: dict[str, Tensor | None] = {INPUT: self.image, CAM: self.cam}
        pictures |= {UNGUIDED: self.unguided, GUIDED: self.guided}
        if self.guided is not None:
            pictures[DIFFERENCE] = (self.image - self.guided).abs().mean(0)
        if self.location is not None:
            pictures[self.location.name] = self.location.values
        return {head: picture for head, picture in pictures.items() if picture is not None}


def panel(rows: Sequence[PanelRow], title: str) -> Figure:
    """Images of a set: input | CAM | unguided | guided | difference | location of the difference.

    Args:
        rows: The images, one per row; at least one. Pictures that no image has are left out.
        title: Title of the figure.

    Returns:
        The figure. Each row shows its set, predicted label and score; the difference is the mean
        over the channels of |input − guided|, from 0 (black) to 1.

    Raises:
        UserError: If there is no row.
    """
    if not rows:
        raise UserError(f"the panel {title!r} has no image: expected at least one")
    from matplotlib.figure import Figure

    heads = _heads(rows)
    heights = [2.3, *[2.1] * (len(rows) - 1)]  # inches; the first row has the headings
    figure = Figure(figsize=(1.9 * len(heads), sum(heights) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=12, wrap=True)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, (part, row) in enumerate(zip(parts, rows, strict=True)):
        text = f"{row.dataset} · predicted {row.prediction} · score {row.score:.4g}"
        part.suptitle(text, fontsize=10, x=0.01, ha="left")
        line = part.subplots(1, len(heads), squeeze=False)[0]
        pictures = row.pictures
        for axes, head in zip(line, heads, strict=True):
            # Even invisible ticks take time to make.
            axes.set(xticks=[], yticks=[])
            axes.set_axis_off()
            if head in pictures:
                _draw(axes, head, pictures[head], row.image)
            if not place:
                axes.set_title(head, fontsize=9, color="0.35")
        if row.mask is not None:
            line[0].contour(row.mask.detach().cpu().numpy(), [0.5], colors=COLORS[1])
    return as_written(figure)


def _heads(rows: Sequence[PanelRow]) -> list[str]:
    """The headings of all rows, those of the most pictures in their order."""
    heads = dict.fromkeys((INPUT, CAM, UNGUIDED, GUIDED, DIFFERENCE))
    for row in rows:
        heads |= dict.fromkeys(row.pictures)
    return [head for head in heads if any(head in row.pictures for row in rows)]


def is_overlay(head: str, picture: Tensor) -> bool:
    """Whether a picture is a heat map that is shown over the input."""
    return picture.ndim == 2 and head != DIFFERENCE


def _draw(axes: Axes, head: str, picture: Tensor, image: Tensor) -> None:
    overlay = is_overlay(head, picture)
    if overlay:
        axes.imshow(_pixels(image.mean(0)).numpy(), cmap="gray", vmin=0.0, vmax=1.0)
    if picture.ndim == 3 and len(picture) == 3:
        axes.imshow(_pixels(picture).permute(1, 2, 0).numpy())
        return
    color_map = "gray" if picture.ndim == 3 else HEAT
    values = _pixels(picture if picture.ndim == 2 else picture[0]).numpy()
    axes.imshow(values, cmap=color_map, vmin=0.0, vmax=1.0, alpha=_OPACITY if overlay else None)


def colored(head: str, picture: Tensor, image: Tensor) -> Tensor:
    """A picture as the panel draws it.

    Args:
        head: Its heading.
        picture: `(C, H, W)` or `(H, W)` in [0, 1].
        image: The input `(C, H, W)` in [0, 1].

    Returns:
        `(H, W, 3)` uint8.
    """
    from matplotlib import colormaps

    pixels = _pixels(picture)
    if picture.ndim == 3:
        pixels = pixels.expand(3, -1, -1).permute(1, 2, 0)
    else:
        pixels = torch.from_numpy(colormaps[HEAT](pixels.numpy())[..., :3]).float()
        if is_overlay(head, picture):
            gray = _pixels(image).mean(0)[..., None]
            pixels = _OPACITY * pixels + (1 - _OPACITY) * gray
    return (255 * pixels).round().byte()


def _pixels(picture: Tensor) -> Tensor:
    return picture.detach().float().cpu().clamp(0.0, 1.0)
