r"""Guidance toward a label, in DiffGuard's two forms.

*Classifier-free* (Ho & Salimans, 2022) with Distinct Semantic Guidance: the guided noise
$\epsilon_\varnothing + s\,(\epsilon_y - \epsilon_\varnothing)$ only inside a mask.

*Classifier guidance* with Clean Grad: the gradient of $\log f(y \mid u)$ with respect to the
blended image $u = \sqrt{1-\bar\alpha}\,\hat x_0 + (1 - \sqrt{1-\bar\alpha})\,x_t$, where
$\hat x_0$ is the model's clean estimate. Nothing is propagated through the diffusion model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from diffguard.diffusion.crops import Reduction, crop_nearest
from diffguard.diffusion.schedule import expand, predict_clean
from diffguard.errors import UserError
from diffguard.images import resize_mask

LogitsFunction = Callable[[Tensor], Tensor]


def classifier_free(
    noise_null: Tensor, noise_label: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """Mix the unconditional and the conditional noise.

    Args:
        noise_null: `(N, C, H, W)` ε without label.
        noise_label: `(N, C, H, W)` ε with label.
        scale: Guidance scale s: 0 is unguided, 1 is the conditional noise.
        mask: `(N, h, w)` in {0, 1}, where the guidance applies (everywhere if None); resized to
            `(H, W)` by nearest neighbor if its size differs.

    Returns:
        `(N, C, H, W)`.

    Example:
        >>> null, label = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> classifier_free(null, label, scale=3.0, mask=torch.tensor([[[0.0, 1.0]]]).bool())
        tensor([[[[0., 3.]]]])
    """
    # At scale 1 the formula would only add rounding to ε_y.
    guided = noise_label if scale == 1 else noise_null + scale * (noise_label - noise_null)
    if mask is None:
        return guided
    return torch.where(resize_mask(mask, noise_null.shape[-2:]).unsqueeze(1), guided, noise_null)


def blend_clean(x: Tensor, noise: Tensor, alpha: Tensor, *, blend: bool = True) -> Tensor:
    """The image that Clean Grad shows to the classifier.

    Args:
        x: `(N, C, H, W)` states in model range [-1, 1].
        noise: `(N, C, H, W)` predicted noise, not clipped.
        alpha: `(N,)` levels ᾱ of the states.
        blend: False shows x itself (the ablation: a gradient at the noisy state).

    Returns:
        `(N, C, H, W)` u.
    """
    if not blend:
        return x
    weight = expand((1 - alpha).sqrt(), x)
    return weight * predict_clean(x, noise, alpha) + (1 - weight) * x


def classifier_gradient(
    classify: LogitsFunction,
    u: Tensor,
    labels: Tensor,
    scale: float,
    *,
    boxes: Tensor | None = None,
    crop_size: int | None = None,
    output_size: int | None = None,
    crops_at_once: int | None = None,
    rows_at_once: int | None = None,
    reduction: Reduction = "sum",
    to_image: Callable[[Tensor], Tensor] = lambda u: (u + 1.0) / 2.0,
) -> Tensor:
    """The scaled gradient s ∂ log f(y | u) / ∂u.

    Args:
        classify: `(N, C, H, W)` images, nominally in [0, 1], to logits `(N, K)`.
        u: `(N, C, H, W)` blended images in model range [-1, 1].
        labels: `(N,)` int64 on the CPU; rows with -1 are unconditional: they get gradient 0 and
            are not shown to the classifier.
        scale: Guidance scale s.
        boxes: `(N, M, 3)` int64 on the CPU, crops `(side, x, y)` of each image; None shows it
            whole.
        crop_size: Side to which crops are resized (nearest neighbor); needed with `boxes`.
        output_size: Side of a second resize, if the classifier's input has another size.
        crops_at_once: Crops of each image that a call of the classifier shows; None shows all.
        rows_at_once: Rows of which `to_image` keeps a graph at once, to bound its memory; it runs
            twice if there are more. None keeps the graph of all rows.
        reduction: Over the crops: `sum` (the paper's: more crops guide more) or `mean`.
        to_image: Maps u to images for the classifier, differentiably and without clamping.

    Returns:
        `(N, C, H, W)` gradient, without graph.

    Raises:
        UserError: If `boxes` are given without `crop_size`.
    """
    guided = labels >= 0
    if scale == 0 or not bool(guided.any()):
        return torch.zeros_like(u)
    if not bool(guided.all()):
        gradient = torch.zeros_like(u)
        gradient[guided] = classifier_gradient(
            classify, u[guided], labels[guided], scale,
            boxes=None if boxes is None else boxes[guided], crop_size=crop_size,
            output_size=output_size, crops_at_once=crops_at_once, rows_at_once=rows_at_once,
            reduction=reduction, to_image=to_image,
        )  # fmt: skip
        return gradient
    weight = scale if boxes is None or reduction == "sum" else scale / boxes.shape[1]
    # Lightning evaluates in inference mode: fresh tensors outside of it can carry a graph.
    with torch.inference_mode(False), torch.enable_grad():
        target = labels.to(u.device, non_blocking=True).clone()
        leaf = u.detach().clone()
        most = rows_at_once or len(u)
        in_parts = most < len(u)

        def show(part: Tensor, crops: Tensor | None) -> Tensor:
            return _views(to_image(part), crops, crop_size, output_size)

        with torch.set_grad_enabled(not in_parts):
            views = show(leaf.requires_grad_(), boxes)
        parts = views.detach().split(crops_at_once or len(views))
        slopes = weight * torch.cat([_slope(classify, part, target) for part in parts])
        # All crops come from one image, so backpropagation passes a VAE's decoder only once.
        if not in_parts:
            return _back(views, leaf, slopes)
        gradients = []
        for begin in range(0, len(u), most):
            rows = slice(begin, begin + most)
            part = leaf[rows].detach().requires_grad_()
            again = show(part, None if boxes is None else boxes[rows])
            gradients.append(_back(again, part, slopes[:, rows]))
        return torch.cat(gradients)


def _back(views: Tensor, leaf: Tensor, slopes: Tensor) -> Tensor:
    """∂ Σ (views · slopes) / ∂leaf."""
    with torch.autocast(leaf.device.type, enabled=False):
        return torch.autograd.grad(views, leaf, slopes)[0]


def _slope(classify: LogitsFunction, views: Tensor, target: Tensor) -> Tensor:
    """∂ Σ log f(y | view) / ∂view of views `(M, N, C, h, w)` of images with labels `(N,)`."""
    shown = views.flatten(0, 1).requires_grad_()
    labels = target.repeat(len(views))
    likelihood = -F.cross_entropy(classify(shown), labels, reduction="sum")
    with torch.autocast(views.device.type, enabled=False):
        return torch.autograd.grad(likelihood, shown)[0].view_as(views)


def _views(
    image: Tensor, boxes: Tensor | None, crop_size: int | None, output_size: int | None
) -> Tensor:
    """The views of images `(N, C, H, W)` that the classifier sees, `(M, N, C, h, w)`."""
    if boxes is None:
        return image.unsqueeze(0)
    if crop_size is None:
        raise UserError("crops need a crop_size: name the side in pixels to which they are resized")
    crops = crop_nearest(image, boxes.transpose(0, 1), crop_size)
    if output_size is None or output_size == crop_size:
        return crops
    resized = F.interpolate(crops.flatten(0, 1), size=(output_size, output_size), mode="nearest")
    return resized.unflatten(0, crops.shape[:2])
