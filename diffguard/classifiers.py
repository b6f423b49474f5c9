"""The protected classifier: any network, wrapped so that it takes images in [0, 1].

The wrapper owns what the network expects (channels, size, normalisation) and finds the places
that DiffGuard and the baselines read: the features (input of the last linear layer), the layer
for Grad-CAM, and further layers by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffguard.errors import UserError
from diffguard.images import convert_channels, resize_to


@dataclass
class ClassifierOutput:
    """What one pass of the classifier gives.

    Attributes:
        logits: `(N, K)`.
        features: `(N, D)`, the input of the last linear layer (or of `feature_layer`).
        layers: Further named layers, each pooled to `(N, D)`.
    """

    logits: Tensor
    features: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: slice) -> ClassifierOutput:
        """The output of some of the rows."""
        layers = {name: value[rows] for name, value in self.layers.items()}
        return ClassifierOutput(self.logits[rows], self.features[rows], layers)

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
        network: Any module that maps normalised images to logits.
        num_classes: Number K of classes.
        channels: Channels that the network takes, 1 or 3; grey and colour are converted.
        size: `(height, width)` to which images are resized; None leaves them as they are.
        mean: Mean per channel that is subtracted.
        std: Standard deviation per channel, by which is divided.
        feature_layer: Module whose *input* is the features; by default the last linear layer
            with K outputs.
        cam_layer: Module whose *output* Grad-CAM reads; by default the last module with a
            spatial output, or the first norm of the last block of a vision transformer.
        class_names: Names of the classes.

    Raises:
        UserError: For a layer that the network lacks, or where no feature layer is found.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        *,
        channels: int = 3,
        size: tuple[int, int] | None = None,
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
        self.class_names = list(class_names or (str(k) for k in range(num_classes)))
        if len(self.class_names) != num_classes:
            raise UserError(
                f"{len(self.class_names)} class names were given for {num_classes} classes"
            )
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)
        self.feature_layer = feature_layer or self._find_head()
        self.cam_layer = cam_layer
        self._module(self.feature_layer)

    def normalize(self, images: Tensor) -> Tensor:
        """Bring images `(N, C, H, W)` in [0, 1] to what the network takes."""
        images = convert_channels(images, self.channels)
        if self.size is not None:
            images = resize_to(images, self.size)
        return (images - self.mean.to(images)) / self.std.to(images)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `(N, C, H, W)` in [0, 1] to logits `(N, K)`."""
        return self.network(self.normalize(images))

    def forward_features(self, images: Tensor, layers: Sequence[str] = ()) -> ClassifierOutput:
        """Classify and read the features in the same pass.

        Args:
            images: `(N, C, H, W)` in [0, 1].
            layers: Names of further modules whose outputs are wanted.

        Returns:
            Logits, features and layers, one row per image.
        """
        caught: dict[str, Tensor] = {}
        handles = [
            self.feature_module.register_forward_pre_hook(
                lambda _module, inputs: caught.__setitem__("", inputs[0])
            ),
            *(_catch_output(self._module(name), caught, name) for name in layers),
        ]
        try:
            logits = self(images)
        finally:
            for handle in handles:
                handle.remove()
        pooled = {name: _pool(_found(caught, name, name)) for name in layers}
        return ClassifierOutput(logits, _pool(_found(caught, "", self.feature_layer)), pooled)

    def forward_cam(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classify with a graph up to the CAM layer.

        Returns:
            Logits `(N, K)` and the layer's output, whose gradient can be taken.
        """
        caught: dict[str, Tensor] = {}
        if self.cam_layer is None:
            self.cam_layer = self._find_cam_layer(images)
        handle = _catch_output(self._module(self.cam_layer), caught, "cam", keep_graph=True)
        try:
            logits = self(images.requires_grad_())
        finally:
            handle.remove()
        return logits, _found(caught, "cam", self.cam_layer)

    def cam_maps(self, activation: Tensor) -> Tensor:
        """Bring an activation of the CAM layer to `(N, D, h, w)`.

        Tokens `(N, L, D)` of a vision transformer become a square grid, without the class and
        register tokens in front.

        Raises:
            UserError: For a shape that is neither.
        """
        if activation.ndim == 4:
            return activation
        if activation.ndim == 3:
            side = int(activation.shape[1] ** 0.5)
            grid = activation[:, activation.shape[1] - side * side :]
            return grid.transpose(1, 2).reshape(len(grid), -1, side, side)
        raise UserError(
            f"CAM layer {self.cam_layer!r} gives {tuple(activation.shape)}, expected feature maps "
            "(N, D, h, w) or tokens (N, L, D): name another in classifier.cam_layer"
        )

    @property
    def feature_module(self) -> nn.Module:
        """The layer whose input is the features."""
        return self._module(self.feature_layer)

    @property
    def head(self) -> nn.Linear | None:
        """The last linear layer, where the features enter it; needed by ViM."""
        module = self.feature_module
        return module if isinstance(module, nn.Linear) else None

    def _module(self, name: str) -> nn.Module:
        try:
            return self.network.get_submodule(name)
        except AttributeError as error:
            known = [n for n, m in self.network.named_modules() if n and "." not in n]
            raise UserError(
                f"the classifier has no layer {name!r}; its parts are {', '.join(known)}"
            ) from error

    def _find_head(self) -> str:
        linear = [
            name
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == self.num_classes
        ]
        if not linear:
            raise UserError(
                f"no linear layer with {self.num_classes} outputs was found in the classifier: "
                "name the layer whose input is the features in classifier.feature_layer"
            )
        return linear[-1]

    def _find_cam_layer(self, images: Tensor) -> str:
        blocks = getattr(self.network, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and hasattr(blocks[-1], "norm1"):
            shape = self._output_shapes(images, lambda name: name == f"blocks.{len(blocks) - 1}")
            if all(len(s) == 3 for s in shape.values()):
                return f"blocks.{len(blocks) - 1}.norm1"
        spatial = [
            name
            for name, shape in self._output_shapes(images, lambda name: name != "").items()
            if len(shape) == 4 and min(shape[2:]) > 1
        ]
        if not spatial:
            raise UserError(
                "no layer with spatial feature maps was found: name one in classifier.cam_layer"
            )
        return spatial[-1]

    @torch.no_grad()
    def _output_shapes(
        self, images: Tensor, wanted: Callable[[str], bool]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the modules' outputs, in the order in which they are computed."""
        caught: dict[str, Tensor] = {}
        handles = [
            _catch_output(module, caught, name)
            for name, module in self.network.named_modules()
            if wanted(name)
        ]
        try:
            self(images[:1].detach())
        finally:
            for handle in handles:
                handle.remove()
        return {name: tuple(value.shape) for name, value in caught.items()}


def _catch_output(
    module: nn.Module, caught: dict[str, Tensor], name: str, *, keep_graph: bool = False
) -> RemovableHandle:
    def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        # An in-place layer behind this one would overwrite what is read here.
        if not keep_graph:
            caught[name] = output.clone()
            return None
        caught[name] = output
        return output.clone()

    return module.register_forward_hook(hook)


def _found(caught: dict[str, Tensor], key: str, layer: str) -> Tensor:
    if key not in caught:
        raise UserError(f"layer {layer!r} of the classifier gives no tensor: name another")
    return caught[key]


def _pool(value: Tensor) -> Tensor:
    """Average maps `(N, D, h, w)` or tokens `(N, L, D)` to `(N, D)`."""
    if value.ndim == 4:
        return value.mean(dim=(2, 3))
    if value.ndim == 3:
        return value.mean(dim=1)
    return value.flatten(1)
