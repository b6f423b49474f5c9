"""The protected classifier: any network, wrapped so that it takes images in [0, 1].

The wrapper owns what the network expects (channels, size, normalization) and reads what DiffGuard
and the baselines need: the features (input of the last layer), the layer for Grad-CAM, and further
layers by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffguard.batching import padded
from diffguard.classifiers.layers import as_linear, find_head
from diffguard.errors import UserError
from diffguard.failures import failure_report
from diffguard.images import Interpolation, convert_channels, resize_to


@dataclass
class ClassifierOutput:
    """Output of one pass of the classifier.

    Attributes:
        logits: `(N, K)`.
        features: `(N, D)`, the input of the last layer (or of `feature_layer`).
        layers: Further named layers, each pooled to `(N, D)`.
    """

    logits: Tensor
    features: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: slice) -> ClassifierOutput:
        """The output of some of the rows."""
        layers = {name: value[rows] for name, value in self.layers.items()}
        return ClassifierOutput(self.logits[rows], self.features[rows], layers)

    def padded(self, size: int) -> ClassifierOutput:
        """The output with its first row repeated until there are `size` rows."""
        layers = {name: padded(value, size) for name, value in self.layers.items()}
        return ClassifierOutput(padded(self.logits, size), padded(self.features, size), layers)

    @staticmethod
    def concatenate(parts: Sequence[ClassifierOutput]) -> ClassifierOutput:
        """The rows of several outputs in order."""
        return ClassifierOutput(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.features for part in parts]),
            {name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers},
        )


class Classifier(nn.Module):
    """A classifier `(N, C, H, W)` in [0, 1] -> logits `(N, K)`.

    Args:
        network: Any module that maps normalized images to logits.
        num_classes: Number K of classes.
        channels: Channels that the network takes, 1 or 3; gray and color are converted.
        size: `(height, width)` that the network takes; None leaves images as they are.
        resize: Side to which images are resized before `size` is cut out of their center; None
            resizes to `size` without a crop.
        interpolation: How images are resized; shrinking always applies a low-pass filter.
        mean: Mean per channel, which is subtracted.
        std: Standard deviation per channel, the divisor.
        feature_layer: Module whose *input* is the features; by default the last layer, see
            `find_head`.
        cam_layer: Module whose *output* Grad-CAM reads; by default see `find_cam_layer`.
        class_names: Names of the classes.

    Raises:
        UserError: For a layer that the network lacks, if no feature layer is found, or for a crop
            that is larger than the image.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        *,
        channels: int = 3,
        size: tuple[int, int] | None = None,
        resize: int | None = None,
        interpolation: Interpolation = "bilinear",
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        feature_layer: str | None = None,
        cam_layer: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.channels = channels
        self.size = size
        self.resize = resize
        self.interpolation: Interpolation = interpolation
        if resize is not None and (size is None or max(size) > resize):
            raise UserError(
                f"classifier.resize is {resize}, but classifier.size, which is cut out of it, is "
                f"{size}: name a size of at most {resize}"
            )
        self.class_names = list(class_names or (str(k) for k in range(num_classes)))
        if len(self.class_names) != num_classes:
            raise UserError(
                f"{len(self.class_names)} class names were given for {num_classes} classes"
            )
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)
        self.feature_layer = feature_layer or find_head(network, num_classes)
        self.cam_layer = cam_layer
        self.layer(self.feature_layer)

    def normalize(self, images: Tensor, *, crop: bool = True) -> Tensor:
        """Convert images `(N, C, H, W)` in [0, 1] to the network's input.

        Args:
            images: The images.
            crop: Crop the center if there is a `resize`; otherwise the whole image is used.
        """
        images = convert_channels(images, self.channels)
        if self.size is not None:
            full = (self.resize, self.resize) if self.resize and crop else self.size
            images = resize_to(images, full, interpolation=self.interpolation)
            top, left = self.corner(full)
            images = images[..., top : top + self.size[0], left : left + self.size[1]]
        return (images - self.mean.to(images)) / self.std.to(images)

    def forward(self, images: Tensor, *, crop: bool = True) -> Tensor:
        """Classify images `(N, C, H, W)` in [0, 1] to logits `(N, K)`; `crop` as in `normalize`.

        Raises:
            UserError: If the network fails, or returns anything else.
        """
        inputs = self.normalize(images, crop=crop)
        height, width = inputs.shape[-2:]
        advice = "check its size, channels and kwargs"
        if self.training and len(images) == 1:
            advice = (
                "BatchNorm cannot train on a batch of one image, so use larger batches, with "
                f"drop_last=True for a last batch of one image; otherwise {advice}"
            )
        with failure_report(
            f"the classifier fails on images of {height} × {width} with {self.channels} channels",
            advice,
        ):
            logits = self.network(inputs)
        if not isinstance(logits, Tensor) or logits.shape != (len(images), self.num_classes):
            result = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(
                f"the classifier returns {result} for {len(images)} images, expected logits "
                f"{(len(images), self.num_classes)}: check the number of classes, or wrap it in a "
                "module that returns the logits alone"
            )
        return logits

    def forward_features(self, images: Tensor, layers: Sequence[str] = ()) -> ClassifierOutput:
        """Classify and read the features in the same pass.

        Args:
            images: `(N, C, H, W)` in [0, 1].
            layers: Names of further modules whose outputs are returned.

        Returns:
            Logits, features and layers, one row per image.
        """
        outputs: dict[str, Tensor] = {}
        handles = [
            self.feature_module.register_forward_pre_hook(
                lambda _module, inputs: outputs.__setitem__("", inputs[0])
            ),
            *(_catch_output(self.layer(name), outputs, name) for name in layers),
        ]
        try:
            logits = self(images)
        finally:
            for handle in handles:
                handle.remove()
        pooled = {name: _pool(_output(outputs, name, name)) for name in layers}
        return ClassifierOutput(logits, _pool(_output(outputs, "", self.feature_layer)), pooled)

    @property
    def feature_module(self) -> nn.Module:
        """The layer whose input is the features."""
        return self.layer(self.feature_layer)

    @property
    def head(self) -> nn.Linear | None:
        """The last layer, if its input is the features; needed by ViM."""
        return as_linear(self.feature_module)

    def corner(self, full: tuple[int, int]) -> tuple[int, int]:
        """Top and left of the center crop of an image of size `full`, rounded as in torchvision."""
        if self.size is None:
            return 0, 0
        return round((full[0] - self.size[0]) / 2), round((full[1] - self.size[1]) / 2)

    def layer(self, name: str) -> nn.Module:
        """A layer of the network.

        Raises:
            UserError: For a name that the network lacks.
        """
        try:
            return self.network.get_submodule(name)
        except AttributeError as error:
            parts = [n for n, m in self.network.named_modules() if n and "." not in n]
            raise UserError(
                f"the classifier has no layer {name!r}; its parts are {', '.join(parts)}"
            ) from error


def _catch_output(module: nn.Module, outputs: dict[str, Tensor], name: str) -> RemovableHandle:
    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            # A following in-place layer would overwrite it.
            outputs[name] = output.clone()

    return module.register_forward_hook(hook)


def _output(outputs: dict[str, Tensor], key: str, layer: str) -> Tensor:
    if key not in outputs:
        raise UserError(f"layer {layer!r} of the classifier returns no tensor: name another")
    return outputs[key]


def _pool(value: Tensor) -> Tensor:
    """Average maps `(N, D, h, w)` or tokens `(N, L, D)` to `(N, D)`."""
    if value.ndim == 4:
        return value.mean(dim=(2, 3))
    if value.ndim == 3:
        return value.mean(dim=1)
    return value.flatten(1)
