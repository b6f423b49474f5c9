"""Results of an evaluation and pictures in the loggers of Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from diffguard.report.results_log import Layout, ResultsLog
from diffguard.report.tensorboard import TensorBoardLog


class LoggerLog:
    """A `ResultsLog` that gives a logger what every logger can take: config and metrics.

    Args:
        logger: The logger.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def hyperparameters(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        """Log the config."""
        self.logger.log_hyperparams(dict(config))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log the metrics."""
        self.logger.log_metrics(dict(values))

    def text(self, name: str, markdown: str) -> None:
        """Not every logger takes texts."""

    def histogram(self, name: str, values: NDArray[np.float64]) -> None:
        """Not every logger takes histograms."""

    def pr_curve(self, name: str, is_ood: NDArray[np.bool_], ranks: NDArray[np.float64]) -> None:
        """Not every logger takes curves."""

    def picture(self, name: str, file: Path) -> None:
        """Not every logger takes pictures."""

    def layout(self, charts: Layout) -> None:
        """Not every logger arranges charts."""

    def close(self) -> None:
        """Write what is left."""
        self.logger.finalize("success")


class WandbLog(LoggerLog):
    """A `ResultsLog` that also gives W&B texts, pictures, histograms and PR curves."""

    logger: WandbLogger

    def text(self, name: str, markdown: str) -> None:
        """Log the text as a table of one cell."""
        self.logger.log_text(name, columns=["text"], data=[[markdown]])

    def picture(self, name: str, file: Path) -> None:
        """Log the picture."""
        self.logger.log_image(name, [str(file)])

    def histogram(self, name: str, values: NDArray[np.float64]) -> None:
        """Log the histogram."""
        import wandb

        self._log(name, wandb.Histogram(values))

    def pr_curve(self, name: str, is_ood: NDArray[np.bool_], ranks: NDArray[np.float64]) -> None:
        """Log the curve."""
        import wandb

        probabilities = np.stack([1 - ranks, ranks], axis=1)
        self._log(name, wandb.plot.pr_curve(is_ood.astype(int), probabilities, ["ID", "OOD"]))

    def close(self) -> None:
        """Write what is left, and end the run of W&B; a later run would continue it."""
        super().close()
        self.logger.experiment.finish()

    def _log(self, name: str, value: Any) -> None:
        self.logger.experiment.log({name: value})


def results_log(logger: Logger) -> ResultsLog:
    """The log of results that writes to a logger, and shows what the logger can show."""
    if isinstance(logger, TensorBoardLogger):
        return TensorBoardLog(logger.experiment)
    return WandbLog(logger) if isinstance(logger, WandbLogger) else LoggerLog(logger)


def log_picture(
    loggers: Iterable[Logger], name: str, pixels: NDArray[np.uint8], step: int | None = None
) -> None:
    """Show a picture in the loggers that can: TensorBoard and W&B.

    Args:
        loggers: The loggers.
        name: Name of the picture.
        pixels: `(H, W, 3)`.
        step: Training step; None if the picture belongs to none.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels], step)
