"""The modules of a diffusion model, with its noise levels and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.spec import DiffusionSpec, Fit
from diffguard.errors import UserError


@dataclass
class DiffusionParts:
    """The modules of a diffusion model and their properties.

    Attributes:
        family: `adm`, `ldm` or `ddpm` for the files of these programs, otherwise `diffusers`.
        network: The U-Net or transformer of diffusers, or ours if diffusers cannot express it.
        scheduler: Config of a diffusers scheduler: noise levels and prediction type.
        image_size: Side in pixels of the images that it was trained on.
        num_classes: Classes without the null class; None for an unconditional model.
        null_class: Label that means "no label"; None if there is none.
        autoencoder: First stage of a latent model.
        context: The cross-attention context of each label.
        patch: Side in pixels of the squares that a pixel model rearranges into channels.
    """

    family: str
    network: Any
    scheduler: dict[str, Any]
    image_size: int
    num_classes: int | None = None
    null_class: int | None = None
    autoencoder: Any = None
    context: ClassContext | None = None
    patch: int = DiffusionSpec.patch

    @property
    def pixel_channels(self) -> int:
        """Channels of the images that the model was trained on, 1 or 3."""
        if self.autoencoder is not None:
            return int(self.autoencoder.config["in_channels"])
        return int(self.network.config["in_channels"]) // self.patch**2

    def check_classes(self, expected: int | None) -> None:
        """Compare with the number of classes that the user expects.

        Raises:
            UserError: If they differ.
        """
        if expected is None or expected == self.num_classes:
            return
        has = "no classes" if self.num_classes is None else f"{self.num_classes} classes"
        raise UserError(
            f"the diffusion model knows {has}, expected {expected}: take one of your classes or "
            "one without classes, or name all that it knows in data.class_names (num_classes when "
            "it is converted); fine-tuning does not change them"
        )

    def check_null_class(self, expected: int | None) -> None:
        """Compare with the label that the user gives for "no label".

        Raises:
            UserError: If they differ.
        """
        if expected not in (None, self.null_class):
            raise UserError(
                f"null_class {expected} was given, but the model's is {self.null_class}: leave "
                "it out"
            )

    def spec(
        self,
        *,
        image_size: int | None = None,
        image_channels: int = 3,
        fit: Fit = DiffusionSpec.fit,
        antialias: bool = DiffusionSpec.antialias,
        slice_size: int = DiffusionSpec.slice_size,
    ) -> DiffusionSpec:
        """The spec of the model for an image size, which defaults to the model's own."""
        autoencoder, context = self.autoencoder, self.context
        return DiffusionSpec(
            network=type(self.network).__name__,
            config=plain_config(self.network.config),
            scheduler=plain_config(self.scheduler),
            image_size=self.image_size if image_size is None else image_size,
            image_channels=image_channels,
            num_classes=self.num_classes,
            null_class=self.null_class,
            fit=fit,
            antialias=antialias,
            autoencoder=None if autoencoder is None else type(autoencoder).__name__,
            autoencoder_config={} if autoencoder is None else plain_config(autoencoder.config),
            context=None if context is None else list(context.table.shape),
            slice_size=slice_size,
            patch=self.patch,
        )


def plain_config(config: Any) -> dict[str, Any]:
    """A config as plain data, without the private entries of diffusers."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.items()
        if not name.startswith("_")
    }
