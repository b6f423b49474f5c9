"""The formulas behind `distances.py`: plain functions `(N, …) x 2 -> (N,)`.

All but `psnr` are distances: higher = more different. Image functions take `(N, C, H, W)` in
[0, 1], gray or RGB; values outside are not clamped. Rows do not depend on each other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.errors import UserError
from diffguard.images import convert_channels
from diffguard.scores.distance_names import MS_SSIM_SMALLEST, SSIM_SMALLEST

PSNR_CAP = 100.0
"""Largest PSNR in dB; the distance of equal images is minus this value."""


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over all pixels and channels."""
    return (a - b).abs().flatten(1).mean(1)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean norm of the difference over all pixels and channels (the paper's; no mean)."""
    return torch.linalg.vector_norm((a - b).flatten(1), dim=1)


def psnr(a: Tensor, b: Tensor, *, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, a quality: higher = more alike, infinite if equal.

    It is `20 log10(peak / sqrt(mean (a - b)²))`, with the mean over all pixels and channels.

    Args:
        a: Images `(N, C, H, W)` of any range.
        b: Images of the same shape and range.
        peak: Width of the range: 1 for images in [0, 1]. The paper used 255 on images in [-1, 1].

    Example:
        >>> psnr(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.1))
        tensor([20.])
    """
    return 20.0 * torch.log10(peak / (a - b).square().flatten(1).mean(1).sqrt())


def psnr_distance(a: Tensor, b: Tensor) -> Tensor:
    """Minus the PSNR of images in [0, 1], in dB: a distance, at least -100 (`PSNR_CAP`)."""
    return -psnr(a, b).clamp(max=PSNR_CAP)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM as published (Wang et al. 2004), in [0, 2].

    It is the mean over all Gaussian windows of 11 px with σ = 1.5 that lie inside the image. For
    images below 11 px, the window is the largest odd one that fits, with σ in proportion.

    Raises:
        UserError: For images smaller than 3 px.

    Example:
        >>> image = torch.linspace(0, 1, 144).view(1, 1, 12, 12)
        >>> bool(ssim(image, image) < ssim(image, 1 - image))
        True
    """
    similarity, radius = _ssim_map(a, b)
    inside = similarity[..., radius:-radius, radius:-radius]
    return 1.0 - inside.flatten(1).mean(1)


def ssim_reflect(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM with a window around every pixel, the borders mirrored, in [0, 2].

    This is torchmetrics' SSIM. It weights the border of small images more than `ssim` does: at
    28 px the two differ by 15% to 20%.

    Raises:
        UserError: For images smaller than 3 px.
    """
    similarity, _ = _ssim_map(a, b)
    return 1.0 - similarity.reshape(len(a), -1).mean(-1)


def _ssim_map(a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """SSIM of the window around each pixel `(N, C, H, W)`, and the radius of the window."""
    # The library takes seconds to import, and few detectors need it here.
    from torchmetrics.functional.image import structural_similarity_index_measure as tm_ssim

    side = min(a.shape[-2:])
    if side < SSIM_SMALLEST:
        raise UserError(
            f"ssim needs images of at least {SSIM_SMALLEST} px, got {tuple(a.shape[-2:])}: use l2"
        )
    radius = min(5, (side - 1) // 2)
    # torchmetrics derives the window from σ alone: its radius is int(3.5 σ + 0.5).
    _, similarity = tm_ssim(
        a, b, sigma=0.3 * radius, data_range=1.0, reduction="none", return_full_image=True
    )
    return similarity, radius


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang et al. 2003) over five scales, in [0, 1].

    This is torchmetrics' version, which mirrors the borders like `ssim_reflect`.

    Raises:
        UserError: For images smaller than 176 px.
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as tm_ms_ssim,
    )

    if min(a.shape[-2:]) < MS_SSIM_SMALLEST:
        raise UserError(
            f"ms_ssim needs images of at least {MS_SSIM_SMALLEST} px, got "
            f"{tuple(a.shape[-2:])}: use ssim"
        )
    return 1.0 - tm_ms_ssim(a, b, data_range=1.0, reduction="none").reshape(-1)


def gmsd(a: Tensor, b: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014, arXiv 1308.3052).

    Luma halved by 2x2 means, Prewitt gradient magnitudes g, similarity
    `(2 g_a g_b + c)/(g_a² + g_b² + c)` with c = 170/255², and its standard deviation over pixels.
    """
    prewitt = a.new_tensor([[1.0, 0.0, -1.0]]).expand(3, 3) / 3.0
    kernels = torch.stack([prewitt, prewitt.T])[:, None]

    def squared_gradient(images: Tensor) -> Tensor:
        half = F.avg_pool2d(convert_channels(images, 1), 2, ceil_mode=True)
        return F.conv2d(half, kernels, padding=1).square().sum(1)

    ga, gb, c = squared_gradient(a), squared_gradient(b), 170.0 / 255.0**2
    similarity = (2.0 * (ga * gb).sqrt() + c) / (ga + gb + c)
    return similarity.flatten(1).std(1, correction=0)


def dists_statistics(a: Tensor, b: Tensor, c: float = 1e-6) -> Tensor:
    """The DISTS formula on pixels, without a network; texture and structure weigh the same.

    `1 - mean_channels[½ (2 m_a m_b + c)/(m_a² + m_b² + c) + ½ (2 c_ab + c)/(v_a + v_b + c)]` with
    spatial means m, biased variances v and covariance c_ab of each channel.
    """
    weight = 0.5 / a.shape[1]
    return texture_structure(a, b, weight, weight, c)


def logits_l1(a: Tensor, b: Tensor) -> Tensor:
    """`Σ_k |a_k - b_k|` over logits `(N, K)`, the paper's choice for CIFAR-10."""
    return (a - b).abs().sum(1)


def feature_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of features `(N, K)`, in [0, 2]; a zero vector counts as equal to another.

    It is computed as half the squared distance of the unit vectors, which stays accurate near 0.
    """
    return 0.5 * (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)


def pool_features(x: Tensor) -> Tensor:
    """Average a layer's output over space: `(N, C)`, `(N, L, C)` or `(N, C, H, W)` -> `(N, C)`.

    Raises:
        UserError: For another number of dimensions.
    """
    if x.ndim not in (2, 3, 4):
        raise UserError(
            f"a feature layer must give (N, C), (N, tokens, C) or (N, C, H, W), got shape "
            f"{tuple(x.shape)}: name another layer"
        )
    if x.ndim == 3:
        return x.mean(1)
    return x.flatten(2).mean(2) if x.ndim == 4 else x


def texture_structure(
    a: Tensor, b: Tensor, alpha: Tensor | float, beta: Tensor | float, c: float = 1e-6
) -> Tensor:
    """The DISTS comparison of two feature maps, as a distance.

    With per-channel spatial means m, biased variances v and covariance c_ab it is
    `Σ_channels α (1 - (2 m_a m_b + c)/(m_a² + m_b² + c)) + β (1 - (2 c_ab + c)/(v_a + v_b + c))`,
    with `1 - …` simplified, so that it is exactly 0 for equal maps and never negative.

    Args:
        a: Feature maps `(N, C, H, W)`, any range.
        b: Feature maps of the same shape.
        alpha: Weight of the texture term, `(C,)` or one number for all channels.
        beta: Weight of the structure term, likewise.
        c: Constant that keeps the quotients finite.

    Returns:
        `(N,)`, higher = more different.
    """
    mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
    rest_a, rest_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
    texture = (mean_a - mean_b).square() / (mean_a.square() + mean_b.square() + c)
    variances = rest_a.square().mean((2, 3)) + rest_b.square().mean((2, 3))
    structure = (rest_a - rest_b).square().mean((2, 3)) / (variances + c)
    return (alpha * texture + beta * structure).sum(1)


def structure_map(a: Tensor, b: Tensor, beta: Tensor, c: float = 1e-6) -> Tensor:
    """The structure term of `texture_structure` at each position, `(N, H, W)`.

    Args:
        a: Feature maps `(N, C, H, W)`, any range.
        b: Feature maps of the same shape.
        beta: `(C,)` weight of each channel.
        c: Constant that keeps the quotients finite.

    Returns:
        `(N, H, W)`, at least 0; its spatial mean is the structure term.
    """
    rest_a, rest_b = (x - x.mean((2, 3), keepdim=True) for x in (a, b))
    variances = (rest_a.square() + rest_b.square()).mean((2, 3), keepdim=True)
    return (beta.view(-1, 1, 1) * (rest_a - rest_b).square() / (variances + c)).sum(1)
