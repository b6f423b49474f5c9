"""Results in TensorBoard: metrics, HPARAMS, text, histograms, PR curves and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from diffguard.errors import UserError, reason_of
from diffguard.report.results_log import Layout

_BINS = 64


class TensorBoardLog:
    """A `ResultsLog` that writes to TensorBoard.

    Args:
        writer: The writer of the event file.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    @classmethod
    def in_folder(cls, folder: Path) -> TensorBoardLog:
        """Write to a folder, in place of the event files of an earlier evaluation.

        Raises:
            UserError: If an earlier file cannot be removed, or the folder cannot be written.
        """
        try:
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
            return cls(SummaryWriter(str(folder)))
        except OSError as error:
            raise UserError(
                f"cannot write TensorBoard's files to {folder} ({reason_of(error)}): expected a "
                "folder that can be written"
            ) from error

    def hyperparameters(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Fill a row of the tab HPARAMS."""
        add_hyperparameters(self.writer, config, {_tag(name): metrics[name] for name in metrics})

    def metrics(self, values: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in values.items():
            self.writer.add_scalar(_tag(name), value)

    def text(self, name: str, markdown: str) -> None:
        """Write a text."""
        self.writer.add_text(_tag(name), markdown)

    def histogram(self, name: str, values: NDArray[np.float64]) -> None:
        """Write a histogram of bins of equal width."""
        # TensorFlow's default bins grow exponentially, and are coarse far from 0.
        self.writer.add_histogram(_tag(name), values, bins=_BINS)

    def pr_curve(self, name: str, is_ood: NDArray[np.bool_], ranks: NDArray[np.float64]) -> None:
        """Write a precision-recall curve at 127 thresholds."""
        self.writer.add_pr_curve(_tag(name), is_ood, ranks)

    def picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Write a picture."""
        self.writer.add_image(_tag(name), pixels, dataformats="HWC")

    def layout(self, charts: Layout) -> None:
        """Arrange the tab CUSTOM SCALARS."""
        add_layout(self.writer, charts)

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


def add_hyperparameters(
    writer: SummaryWriter, config: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """Fill a row of the tab HPARAMS.

    Args:
        writer: The writer of the run.
        config: The config, with nested keys, which are joined by `/`.
        metrics: Tags of scalars that the run writes; HPARAMS shows the last value of each.
    """
    # `SummaryWriter.add_hparams` would open a second run and repeat the scalars there.
    for summary in hparams(dict(_flat(config)), dict(metrics)):
        writer._get_file_writer().add_summary(summary)


def add_layout(writer: SummaryWriter, charts: Layout) -> None:
    """Arrange the tab CUSTOM SCALARS: category -> title -> patterns of tags in one chart."""
    writer.add_custom_scalars(
        {
            category: {title: ["Multiline", list(tags)] for title, tags in titles.items()}
            for category, titles in charts.items()
        }
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}/")
        else:
            plain = isinstance(value, bool | int | float | str)
            yield f"{prefix}{key}", value if plain else str(value)


def _tag(name: str) -> str:
    """A name that TensorBoard accepts."""
    return re.sub(r"[^-/\w.]", "_", name)
