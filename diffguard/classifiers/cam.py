r"""Grad-CAM (Selvaraju et al., 2017) and the mask of Distinct Semantic Guidance.

$$ \mathrm{CAM} = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad
   w_k = \frac{1}{hw} \sum_{ij} \frac{\partial\, \mathrm{logit}_y}{\partial A_{kij}} $$
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.layers import find_cam_layer, to_maps, token_grid
from diffguard.errors import UserError


def grad_cam(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Heat map of the evidence for the label.

    Args:
        classifier: The protected classifier, with a CAM layer.
        images: `(N, C, H, W)` in [0, 1].
        labels: `(N,)` int64 in 0 … K-1.

    Returns:
        `(N, H, W)` float32, at least 0, at the size of the images (bilinear); 0 outside
        the classifier's center crop.

    Raises:
        UserError: If the classifier has no CAM layer.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # A clone made outside inference mode can carry a graph.
        logits, activation = forward_cam(classifier, images.detach().clone())
        logit = logits.gather(1, labels.clone().unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(logit, activation)
    activation, gradient = cam_maps(classifier, activation), cam_maps(classifier, gradient)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = (weights * activation).sum(1, keepdim=True).relu()
    maps = place_maps(classifier, cam, (images.shape[-2], images.shape[-1]))
    return maps.squeeze(1).detach().float()


def scale_cam(cam: Tensor) -> Tensor:
    """Scale each map to [0, 1] by its own smallest and largest value, `(N, H, W)`."""
    low = cam.amin(dim=(1, 2), keepdim=True)
    high = cam.amax(dim=(1, 2), keepdim=True)
    return (cam - low) / (high - low + 1e-7)


def cam_mask(scaled: Tensor, cut: float) -> Tensor:
    """Threshold a scaled map.

    Args:
        scaled: `(N, H, W)` in [0, 1].
        cut: In [-1, 1]. If it is at least 0, the mask holds the pixels above it; otherwise
            those below |cut| (the background).

    Returns:
        `(N, H, W)` bool.
    """
    return scaled > cut if cut >= 0 else scaled < -cut


def forward_cam(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classify images `(N, C, H, W)` in [0, 1] with a graph up to the CAM layer.

    Returns:
        Logits `(N, K)` and the output of the layer, with respect to which a gradient can be taken.

    Raises:
        UserError: If there is no such layer, or its output is not a tensor.
    """
    if classifier.cam_layer is None:
        shapes = _output_shapes(classifier, images)
        classifier.cam_layer = find_cam_layer(classifier.network, shapes)
    outputs: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        outputs.append(output)
        # A following in-place layer changes the copy.
        return output.clone()

    handle = classifier.layer(classifier.cam_layer).register_forward_hook(hook)
    try:
        logits = classifier(images.requires_grad_())
    finally:
        handle.remove()
    if not outputs:
        raise UserError(
            f"layer {classifier.cam_layer!r} of the classifier returns no tensor: name another"
        )
    return logits, outputs[-1]


def cam_maps(classifier: Classifier, activation: Tensor) -> Tensor:
    """Bring an activation of the CAM layer to `(N, D, h, w)`; see `to_maps`.

    Raises:
        UserError: If its shape has no spatial axes.
    """
    network = classifier.network
    maps = to_maps(activation, getattr(network, "num_prefix_tokens", None), token_grid(network))
    if maps is None:
        raise UserError(
            f"CAM layer {classifier.cam_layer!r} returns {tuple(activation.shape)}, expected "
            "feature maps (N, D, h, w) or tokens (N, L, D) of a grid: name another in cam_layer "
            "(classifier.cam_layer of a config)"
        )
    return maps


def place_maps(classifier: Classifier, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay maps over whole images, undoing the classifier's resize and center crop.

    Args:
        classifier: The protected classifier.
        maps: `(N, D, h, w)` of the classifier's input.
        size: `(H, W)` of the images.

    Returns:
        `(N, D, H, W)`, bilinear; 0 at the margin that a center crop leaves out.
    """
    if classifier.resize is not None and classifier.size is not None:
        height, width = classifier.size
        side = classifier.resize
        top, left = classifier.corner((side, side))
        inner = F.interpolate(maps, size=classifier.size, mode="bilinear", align_corners=False)
        maps = F.pad(inner, (left, side - left - width, top, side - top - height))
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _output_shapes(classifier: Classifier, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs of the network's modules, in order of computation."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape)

    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
        for name, module in classifier.network.named_modules()
        if name
    ]
    try:
        classifier(images[:1].detach())
    finally:
        for handle in handles:
            handle.remove()
    return shapes
