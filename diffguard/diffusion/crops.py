"""Random crops (cut-outs) of images, shown to a guiding classifier."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# How the gradients of several crops are combined.
Reduction = Literal["sum", "mean"]


def crop_nearest(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut squares out of each image and resize them by nearest neighbor, differentiably.

    Args:
        images: `(N, C, H, W)`.
        boxes: `(M, N, 3)` int64 `(side, x, y)` on the CPU, inside the image.
        size: Side of the result; output pixel p reads source pixel `p * side // size`.

    Returns:
        `(M, N, C, size, size)`.
    """
    side, x, y = boxes.to(images.device, non_blocking=True).unsqueeze(-1).unbind(-2)
    offset = torch.arange(size, device=images.device) * side // size
    rows, columns = y + offset, x + offset
    if int(boxes[..., 0].min()) < size:
        return _select_by_matrices(images, rows, columns)
    index = (rows * images.shape[-1]).unsqueeze(-1) + columns.unsqueeze(-2)
    index = index.flatten(2).unsqueeze(2).expand(-1, -1, images.shape[1], -1)
    pixels = images.flatten(2).expand(len(boxes), -1, -1, -1)
    return pixels.gather(3, index).unflatten(3, (size, size))


def _select_by_matrices(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Crops that read a pixel several times.

    The gradient of an index adds the parts of such a pixel up in any order on a GPU, that of
    one-hot matrices always in the same.
    """
    height, width = images.shape[-2:]
    down = F.one_hot(rows, height).to(images)
    across = F.one_hot(columns, width).to(images)
    # Lower precision would round the pixels.
    with torch.autocast(images.device.type, enabled=False):
        return torch.einsum("mnph,nchw,mnqw->mncpq", down, images, across)


def draw_boxes(
    generator: torch.Generator, crops: int, size: tuple[int, int] | torch.Size, smallest: int
) -> Tensor:
    """Draw random square crops, sides uniform between `smallest` and the image's shorter side.

    Draws are made one by one, in the order of the authors' program.

    Args:
        generator: CPU generator; continues across calls.
        crops: Number M of crops.
        size: Height and width of the image.
        smallest: Smallest side, cut at the shorter side.

    Returns:
        `(M, 3)` int64 `(side, x, y)`.
    """
    height, width = size
    shorter = min(height, width)
    low = min(shorter, smallest)
    boxes = []
    for _ in range(crops):
        side = low + int(torch.rand([], generator=generator).item() * (shorter - low))
        x = torch.randint(0, width - side + 1, (), generator=generator).item()
        y = torch.randint(0, height - side + 1, (), generator=generator).item()
        boxes.append([side, x, y])
    return torch.tensor(boxes)


def place_boxes(draws: Tensor, size: tuple[int, int] | torch.Size, smallest: int) -> Tensor:
    """Random square crops from uniform draws; like `draw_boxes`, for many at once.

    Args:
        draws: `(…, 3)` float64 in [0, 1), for the side, x and y of a crop.
        size: Height and width of the image.
        smallest: Smallest side, cut at the shorter side.

    Returns:
        `(…, 3)` int64 `(side, x, y)`.
    """
    height, width = size
    shorter = min(height, width)
    low = min(shorter, smallest)
    side = low + (draws[..., 0] * (shorter - low)).long()
    x = (draws[..., 1] * (width - side + 1)).long()
    y = (draws[..., 2] * (height - side + 1)).long()
    return torch.stack([side, x, y], dim=-1)
