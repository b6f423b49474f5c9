"""The LightningModule that pushes test images through a Detector."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl

from diffguard.methods.adaptive_stream import AdaptiveStream
from diffguard.methods.items import Item, Scored
from diffguard.methods.scorer import Scorer


class StreamModule(pl.LightningModule):
    """Pushes the images of test loaders through a detector and hands finished rows on.

    Lightning brings device, precision and processes. A subclass opens the stream and takes the
    rows.

    Args:
        detector: The detector.

    Attributes:
        seconds: Wall time from the first batch to the last row of the last test.
    """

    detector: Scorer

    def __init__(self, detector: Scorer) -> None:
        super().__init__()
        self.detector = detector
        self.seconds = 0.0

    def open_stream(self) -> AdaptiveStream:
        """The stream of a test that begins."""
        raise NotImplementedError

    def items(self, batch: Any, dataloader_idx: int) -> list[Item]:
        """The images of a batch."""
        raise NotImplementedError

    def take(self, rows: list[Scored]) -> None:
        """Take finished images, in any order."""
        raise NotImplementedError

    def on_test_epoch_start(self) -> None:
        """Open the stream."""
        self.stream = self.open_stream()
        self._began = time.perf_counter()

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Push a batch in, and hand on what is finished."""
        self.take(self.stream.push(self.items(batch, dataloader_idx)))

    def on_test_epoch_end(self) -> None:
        """Finish what is in flight."""
        # Lightning enters the precision in its steps alone.
        with self.trainer.precision_plugin.test_step_context():
            rows = self.stream.flush()
        self.take(rows)
        self.seconds = time.perf_counter() - self._began
