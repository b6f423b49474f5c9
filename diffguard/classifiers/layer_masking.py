r"""Layer masking (Balasubramanian & Feizi, ICCV 2023, arXiv:2211.14646): hide a region from a CNN.

A region that is painted black shows the network an edge and a color that the image does not have.
Layer masking hides the region in every layer instead. Before each convolution and pooling, hidden
positions are filled with the mean of their visible neighbors, ring by ring. After it, a position is
visible if its window contains a visible position. If branches meet, a position must be visible in
all of them. The global average is taken over the visible positions. So hidden pixels change no
feature, and if nothing is hidden, the features are those of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.errors import UserError
from diffguard.images import resize_mask

# Functions of torch that treat each position on its own.
_POINTWISE = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "sigmoid"),
    *("tanh", "softplus", "hardtanh", "hardswish", "hardsigmoid", "clamp", "batch_norm"),
    *("dropout", "dropout2d", "feature_dropout", "clone", "contiguous", "detach", "to", "float"),
    *("add", "sub", "mul", "div", "__add__", "__radd__", "__sub__", "__mul__", "__rmul__"),
}
_IN_PLACE = {"add_", "sub_", "mul_", "div_", "__iadd__", "__isub__", "__imul__"}
# Functions that lay the maps of an image out as one vector.
_FLATTENING = {"flatten", "view", "reshape", "squeeze"}


class MaskedMaps(Tensor):
    """Feature maps `(N, D, h, w)`, some of whose positions are hidden.

    Attributes:
        mask: `(N, 1, h, w)` bool, the visible positions.
    """

    mask: Tensor

    @classmethod
    def of(cls, maps: Tensor, mask: Tensor) -> MaskedMaps:
        """Maps with a mask."""
        masked = maps.as_subclass(cls)
        masked.mask = mask
        return masked

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Apply a function of torch to the maps, and carry the mask along.

        Raises:
            UserError: If it is not known how the function treats hidden positions.
        """
        name, kwargs = func.__name__, kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if name in _SPATIAL and isinstance(args[0], MaskedMaps):
                plain = args[0].as_subclass(Tensor)
                return _SPATIAL[name](func, plain, args[0].mask, *args[1:], **kwargs)
            result = func(*map(_plain, args), **kwargs)
            if not isinstance(result, Tensor):
                return result
            first, *others = _masked(args)
            if name in _FLATTENING and result.ndim <= 2:
                everywhere = _filled(first.as_subclass(Tensor), first.mask, max(first.shape[-2:]))
                return func(everywhere, *args[1:], **kwargs)
            by_channel = name == "cat" and 1 in (*args[1:], *kwargs.values())
            if not by_channel and name not in _POINTWISE | _IN_PLACE:
                raise UserError(
                    f"layer masking cannot follow hidden positions through {name}: expected a CNN "
                    "of convolutions, pooling, batch norms and activations; set "
                    "detector.comparison.masking to black"
                )
            mask = first.mask
            for maps in others:
                mask = mask & maps.mask
            if name in _IN_PLACE and isinstance(args[0], MaskedMaps):
                args[0].mask = mask
            return cls.of(result, mask)


def layer_masked(
    classifier: Classifier, images: Tensor, masks: Tensor, layers: Sequence[str] = ()
) -> ClassifierOutput:
    """The classifier's outputs if it sees only a part of each image.

    Args:
        classifier: A CNN.
        images: `(N, C, H, W)` in [0, 1]. If the classifier resizes them, pixels on both sides of
            the mask's border are mixed before they are hidden.
        masks: `(N, H, W)` bool, the visible pixels. An image without any is visible as a whole.
        layers: See `Classifier.forward_features`.

    Raises:
        UserError: For a network that layer masking cannot follow.
    """
    visible = _on_input(classifier, masks).unsqueeze(1)
    visible = visible | ~visible.flatten(1).any(1).view(-1, 1, 1, 1)

    def hide(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (MaskedMaps.of(inputs[0], visible),)

    handle = classifier.network.register_forward_pre_hook(hide)
    try:
        return classifier.forward_features(images, layers)
    finally:
        handle.remove()


def _on_input(classifier: Classifier, masks: Tensor) -> Tensor:
    """Masks `(N, H, W)` of images as masks of the network's input."""
    if classifier.size is None:
        return masks
    height, width = classifier.size
    full = (classifier.resize, classifier.resize) if classifier.resize else classifier.size
    top, left = classifier.corner(full)
    return resize_mask(masks, full)[:, top : top + height, left : left + width]


def _filled(maps: Tensor, mask: Tensor, rings: int) -> Tensor:
    """Fill hidden positions with the mean of their 3 × 3 neighbors, `rings` times."""
    visible = mask.to(maps.dtype)
    maps = torch.where(mask, maps, 0.0)
    for _ in range(rings):
        sums, counts = (F.avg_pool2d(values, 3, 1, padding=1) for values in (maps, visible))
        ring = (visible == 0) & (counts > 0)
        maps = torch.where(ring, sums / torch.where(ring, counts, 1.0), maps)
        visible = torch.where(ring, 1.0, visible)
    return maps


def _convolve(
    func: Callable[..., Tensor],
    maps: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):
        raise UserError(f"layer masking expects convolutions with padding in pixels, got {padding}")
    pairs = zip(weight.shape[2:], _pair(stride), _pair(dilation), strict=True)
    # A stride larger than the kernel skips positions, which may be the only visible ones.
    reach, window = zip(
        *((d * (k - 1) + 1, max(d * (k - 1) + 1, s)) for k, s, d in pairs), strict=True
    )
    maps = _filled(maps, mask, max(window) - 1)
    result = func(maps, weight, bias, stride, padding, dilation, groups)
    (bottom, right), (high, wide) = _pair(padding), window
    margins = (right, right + wide - reach[1], bottom, bottom + high - reach[0])
    visible = F.max_pool2d(F.pad(mask.to(maps.dtype), margins), window, _pair(stride))
    return MaskedMaps.of(result, visible > 0)


def _pool(
    func: Callable[..., Tensor],
    maps: Tensor,
    mask: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    if kwargs.get("dilation", 1) not in (1, (1, 1)):
        raise UserError("layer masking expects pooling without dilation")
    stride, kernel = stride or kernel_size, _pair(kernel_size)
    result = func(_filled(maps, mask, max(kernel) - 1), kernel, stride, padding, *args, **kwargs)
    ceil_mode = result.shape[-2:] != F.max_pool2d(mask.float(), kernel, stride, padding).shape[-2:]
    visible = F.max_pool2d(mask.to(maps.dtype), kernel, stride, padding, ceil_mode=ceil_mode)
    return MaskedMaps.of(result, visible > 0)


def _adaptive_average(
    func: Callable[..., Tensor], maps: Tensor, mask: Tensor, output_size: Any
) -> Tensor:
    """The mean of the visible positions in each cell."""
    visible = func(mask.to(maps.dtype), output_size)
    means = func(torch.where(mask, maps, 0.0), output_size) / torch.where(visible > 0, visible, 1.0)
    return MaskedMaps.of(means, visible > 0)


def _mean(
    func: Callable[..., Tensor],  # noqa: ARG001
    maps: Tensor,
    mask: Tensor,
    dim: Sequence[int] = (),
    keepdim: bool = False,
) -> Tensor:
    if isinstance(dim, int) or sorted(d % 4 for d in dim) != [2, 3]:
        raise UserError("layer masking expects means over the positions of an image alone")
    means = _adaptive_average(F.adaptive_avg_pool2d, maps, mask, 1)
    return means if keepdim else means.as_subclass(Tensor).flatten(1)


# Functions that look at several positions.
_SPATIAL: dict[str, Callable[..., Tensor]] = {
    "conv2d": _convolve,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _adaptive_average,
    "mean": _mean,
}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return first, second


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.as_subclass(Tensor) if isinstance(value, MaskedMaps) else value


def _masked(args: Iterable[Any]) -> Iterator[MaskedMaps]:
    for value in args:
        if isinstance(value, list | tuple):
            yield from _masked(value)
        elif isinstance(value, MaskedMaps):
            yield value
