"""A detector in the interface of pytorch-ood (Kirchheim et al., 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from pytorch_ood.api import Detector as LibraryDetector
from pytorch_ood.api import RequiresFittingException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffguard.adapters.normalization import Normalization, OriginalImages
from diffguard.batching import BATCH_SIZE
from diffguard.detector import Detector
from diffguard.errors import UserError


class PytorchOODDetector(LibraryDetector):
    """A detector for pytorch-ood's benchmarks and metrics.

    It scores images, not features, because the diffusion model redraws them.

    Args:
        detector: The detector. If it is not calibrated, `fit` calibrates it.
        validation: ID validation images in [0, 1], not normalized, with their labels, for `fit`;
            see `Detector.calibrate`.
        mean: Mean of each channel with which the inputs of `fit` and `predict` are normalized.
        std: Their standard deviation. By default, the inputs are images in [0, 1].
        batch_size: Images of every network call, at least 1.
    """

    def __init__(
        self,
        detector: Detector,
        validation: Iterable[Any] | Dataset[Any] | None = None,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.detector, self.validation, self.batch_size = detector, validation, batch_size
        self.normalization = Normalization(mean, std)
        self.requires_fit = detector.calibration is None

    def fit(self, data_loader: DataLoader[Any]) -> Self:
        """Calibrate the detector on `validation`, and fit the baselines.

        Args:
            data_loader: Loader of ID training images with labels, not augmented.

        Raises:
            UserError: Without `validation`; see also `Detector.calibrate` and `Normalization.undo`.
        """
        if self.validation is None:
            raise UserError(
                "fit needs ID validation images: PytorchOODDetector(detector, validation=…)"
            )
        reference = OriginalImages(data_loader.dataset, self.normalization, (0, 1))
        self.detector.calibrate(self.validation, reference=reference, batch_size=self.batch_size)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Score images.

        Args:
            x: Normalized images `(N, C, H, W)`.

        Returns:
            `(N,)` float64 on the CPU, higher = more OOD.

        Raises:
            RequiresFittingException: If the detector is not calibrated.
            UserError: See `Detector.score` and `Normalization.undo`.
        """
        if self.detector.calibration is None:
            raise RequiresFittingException
        return self.detector.score(self.normalization.undo(x), batch_size=self.batch_size)
