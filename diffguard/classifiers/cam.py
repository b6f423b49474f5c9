r"""Grad-CAM (Selvaraju et al., 2017) and the mask of Distinct Semantic Guidance.

$$ \mathrm{CAM} = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad
   w_k = \frac{1}{hw} \sum_{ij} \frac{\partial\, \mathrm{logit}_y}{\partial A_{kij}} $$
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffguard.classifiers.classifier import Classifier


def grad_cam(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Where the classifier sees the label.

    Args:
        classifier: The protected classifier, with a CAM layer.
        images: `(N, C, H, W)` in [0, 1].
        labels: `(N,)` int64 in 0 … K-1.

    Returns:
        `(N, H, W)` float32, at least 0, at the size of the images (bilinear); 0 where the
        classifier's centre crop leaves them out.

    Raises:
        UserError: Where the classifier has no CAM layer.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # A clone made outside inference mode can carry a graph.
        logits, activation = classifier.forward_cam(images.detach().clone())
        chosen = logits.gather(1, labels.clone().unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(chosen, activation)
    activation, gradient = classifier.cam_maps(activation), classifier.cam_maps(gradient)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = (weights * activation).sum(1, keepdim=True).relu()
    placed = classifier.place_maps(cam, (images.shape[-2], images.shape[-1]))
    return placed.squeeze(1).detach().float()


def scale_cam(cam: Tensor) -> Tensor:
    """Scale each map to [0, 1] by its own smallest and largest value, `(N, H, W)`."""
    low = cam.amin(dim=(1, 2), keepdim=True)
    high = cam.amax(dim=(1, 2), keepdim=True)
    return (cam - low) / (high - low + 1e-7)


def cam_mask(scaled: Tensor, cut: float) -> Tensor:
    """Cut a scaled map.

    Args:
        scaled: `(N, H, W)` in [0, 1].
        cut: In [-1, 1]. At least 0: the mask is where the map is above it. Negative: where the
            map is below |cut| (the background).

    Returns:
        `(N, H, W)` bool.
    """
    return scaled > cut if cut >= 0 else scaled < -cut
