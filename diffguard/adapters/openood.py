"""A detector as a postprocessor of OpenOOD v1.5 (Zhang et al., 2023, arXiv 2306.09301)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from diffguard.adapters.normalization import Normalization, OriginalImages
from diffguard.batching import BATCH_SIZE
from diffguard.detector import Detector
from diffguard.errors import UserError

_KEYS = ("data", "label")


class OpenOODPostprocessor:
    """A detector with the methods that OpenOOD's evaluator calls.

    The detector classifies the images with its own classifier, so it must be built around the
    network that the evaluator gets. `openood_postprocessor` makes one that the evaluator accepts.

    Args:
        detector: The detector. If it is not calibrated, `setup` calibrates it.
        mean: Mean of each channel with which OpenOOD's preprocessor normalizes the images.
        std: Their standard deviation.
        batch_size: Images of every network call, at least 1.

    Attributes:
        APS_mode: Whether the evaluator searches hyper-parameters; it does not.
    """

    APS_mode = False
    hyperparam_search_done = True

    def __init__(
        self,
        detector: Detector,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.detector, self.batch_size = detector, batch_size
        self.normalization = Normalization(mean, std)

    def setup(self, net: Any, id_loader_dict: Mapping[str, Any], ood_loader_dict: Any) -> None:  # noqa: ARG002
        """Calibrate the detector, unless it is calibrated.

        Args:
            net: The evaluator's network; unused.
            id_loader_dict: Loaders of ID images: `val` sets the threshold, `train` fits baselines.
            ood_loader_dict: Loaders of OOD images; unused, because nothing is fitted to them.

        Raises:
            UserError: See `Detector.calibrate` and `Normalization.undo`.
        """
        if self.detector.calibration is None:
            validation, reference = (
                OriginalImages(id_loader_dict[part].dataset, self.normalization, _KEYS)
                for part in ("val", "train")
            )
            self.detector.calibrate(validation, reference=reference, batch_size=self.batch_size)

    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Classify and score a batch.

        Args:
            net: The evaluator's network; unused.
            data: Normalized images `(N, C, H, W)`.

        Returns:
            Predicted classes, int64 `(N,)`, and confidence, float64 `(N,)`, higher = more ID.

        Raises:
            UserError: See `Detector.predict` and `Normalization.undo`.
        """
        verdicts = self.detector.predict(self.normalization.undo(data), batch_size=self.batch_size)
        return verdicts.label, -verdicts.score

    def inference(
        self, net: Any, data_loader: Any, progress: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Classify and score the images of a loader.

        Args:
            net: The evaluator's network.
            data_loader: Batches with `data` and `label`.
            progress: Show a progress bar.

        Returns:
            Predicted classes, confidence (higher = more ID) and labels, each `(N,)`.
        """
        batches = track(data_loader, "DiffGuard", disable=not progress)
        parts = [
            (*self.postprocess(net, batch["data"]), torch.as_tensor(batch["label"]))
            for batch in batches
        ]
        predictions, confidences, labels = (
            torch.cat(column).numpy(force=True) for column in zip(*parts, strict=True)
        )
        return predictions, confidences, labels


def openood_postprocessor(
    detector: Detector, mean: Sequence[float], std: Sequence[float], batch_size: int = BATCH_SIZE
) -> Any:
    """A detector as an instance of OpenOOD's `BasePostprocessor`, which its evaluator requires.

    Args:
        detector: See `OpenOODPostprocessor`, as for the other arguments.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        batch_size: Images of every network call.

    Raises:
        UserError: If OpenOOD cannot be imported.
    """
    try:
        base = import_module("openood.postprocessors").BasePostprocessor
    except ImportError as error:
        raise UserError(
            f"OpenOOD cannot be imported ({error}): install it from its repository, "
            "https://github.com/Jingkang50/OpenOOD"
        ) from error
    adapter = type("DiffGuardPostprocessor", (OpenOODPostprocessor, base), {})
    return adapter(detector, mean, std, batch_size)
