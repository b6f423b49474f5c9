"""Settings of the methods that fit a Gaussian mixture on ID training images."""

from __future__ import annotations

from dataclasses import dataclass

from diffguard.errors import UserError
from diffguard.settings.method_section import MethodSettings
from diffguard.settings.values import check_least


@dataclass(frozen=True)
class DiffPathSettings(MethodSettings):
    """DiffPath-6D, see `diffguard/methods/diffpath.py`.

    Attributes:
        components: Gaussians of the mixture.
        images: Most ID training images that it is fitted on; each is inverted.

    Raises:
        UserError: For a value out of range.
    """

    components: int = 8
    images: int = 1000

    def __post_init__(self) -> None:
        _check_mixture("detector.diffpath", self.components, self.images)

    @property
    def fit_shape(self) -> tuple[int, ...]:
        """The means of the Gaussians of six statistics; see `MethodSettings`."""
        return self.components, 6


@dataclass(frozen=True)
class MsmaSettings(MethodSettings):
    """MSMA, see `diffguard/methods/msma.py`.

    Attributes:
        levels: Noise levels, at most the steps of the sampler.
        components: Gaussians of the mixture.
        images: Most ID training images that it is fitted on.

    Raises:
        UserError: For a value out of range.
    """

    levels: int = 10
    components: int = 5
    images: int = 1000

    def __post_init__(self) -> None:
        check_least("detector.msma.levels", self.levels, 1)
        _check_mixture("detector.msma", self.components, self.images)

    @property
    def fit_shape(self) -> tuple[int, ...]:
        """The means of the Gaussians of a norm per level; see `MethodSettings`."""
        return self.components, self.levels


def _check_mixture(name: str, components: int, images: int) -> None:
    check_least(f"{name}.components", components, 1)
    if images < 2 * components:
        raise UserError(
            f"{name}.images must be at least twice {name}.components, {2 * components:,}, got "
            f"{images:,}"
        )
