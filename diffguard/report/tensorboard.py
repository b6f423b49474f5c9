"""Results in TensorBoard: metrics, HPARAMS, text, histograms, PR curves and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from diffguard.errors import UserError, reason_of
from diffguard.report.results_log import Layout

_BINS = 64
# Columns of the tab HPARAMS that are shown at first. TensorBoard shows five.
_COLUMNS = {
    *("seed", "detector/distance", "detector/fused"),
    *("detector/sampler/steps", "detector/classifier_free/scale"),
}


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
        tags = {_tag(name): value for name, value in metrics.items()}
        # `SummaryWriter.add_hparams` would open a second run and repeat the scalars there.
        experiment, *summaries = hparams(dict(_flat(config)), tags)
        for summary in (_with_columns(experiment), *summaries):
            self.writer._get_file_writer().add_summary(summary)

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

    def picture(self, name: str, file: Path) -> None:
        """Write a picture."""
        with Image.open(file) as image:
            width, height = image.size
        # `SummaryWriter.add_image` would encode it again.
        content = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes()
        )
        value = Summary.Value(tag=_tag(name), image=content)
        self.writer._get_file_writer().add_summary(Summary(value=[value]))

    def layout(self, charts: Layout) -> None:
        """Arrange the tab CUSTOM SCALARS."""
        patterns = {
            category: {
                # A pattern may otherwise match longer names too.
                title: [f"{re.escape(_tag(name))}$" for name in names]
                for title, names in titles.items()
            }
            for category, titles in charts.items()
        }
        add_layout(self.writer, patterns)

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


def add_layout(writer: SummaryWriter, charts: Layout) -> None:
    """Arrange the tab CUSTOM SCALARS: category -> title -> patterns of tags in one chart."""
    writer.add_custom_scalars(
        {
            category: {title: ["Multiline", list(tags)] for title, tags in titles.items()}
            for category, titles in charts.items()
        }
    )


def _with_columns(experiment: Summary) -> Summary:
    """Mark `_COLUMNS` as differing between runs: TensorBoard shows those columns first."""
    metadata = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(metadata.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in _COLUMNS
    metadata.content = content.SerializeToString()
    return experiment


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
