"""The shell that pushes images through a detector and lets finished rows out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.scoring import Item, Scored, ScoreStream

RowSink = Callable[[Sequence[Scored]], None]
OpenLoader = Callable[[pl.Trainer], Any]


class DetectorModule(pl.LightningModule):
    """Scores the images of a test loader; Lightning brings device, precision and processes.

    Args:
        detector: What scores them.
        batch_size: Rows of every network call.
        sink: Called with each chunk of finished images, on every rank.
        open_loader: Gives the batches of this process, once the processes are connected.
        derive: Whether the scores that need calibration are added; calibration runs without.

    Attributes:
        scored: Images scored by this process.
        seconds: Wall time from the first batch to the last row.
        fill: Share of the rows of all diffusion calls that were no padding.
    """

    def __init__(
        self,
        detector: Detector,
        batch_size: int,
        sink: RowSink,
        open_loader: OpenLoader,
        *,
        derive: bool = True,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.batch_size = batch_size
        self.sink = sink
        self.open_loader = open_loader
        self.derive = derive
        self.scored = 0
        self.seconds = 0.0
        self.fill = 0.0
        self._stream: ScoreStream | None = None
        self._began = 0.0

    def test_dataloader(self) -> Any:
        """This process's share of the images."""
        return self.open_loader(self.trainer)

    def on_test_epoch_start(self) -> None:
        """Open the stream."""
        self._stream = self.detector.stream(self.batch_size, derive=self.derive)
        self._began = time.perf_counter()

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Push a batch in, and hand on what is finished."""
        self._hand_on(self._open_stream().push(items_of(batch)))

    def on_test_epoch_end(self) -> None:
        """Finish what is in flight."""
        stream = self._open_stream()
        self._hand_on(stream.flush())
        self.seconds = time.perf_counter() - self._began
        calls = stream.reconstructor.calls
        self.fill = stream.reconstructor.rows / (calls * stream.batch_size) if calls else 1.0
        self._stream = None

    def _open_stream(self) -> ScoreStream:
        if self._stream is None:
            raise UserError("images reached the detector outside of an evaluation")
        return self._stream

    def _hand_on(self, rows: Sequence[Scored]) -> None:
        if rows:
            self.sink(rows)
            self.scored += len(rows)


def items_of(batch: Mapping[str, Any]) -> list[Item]:
    """The items of a batch of `datamodules`."""
    return [
        Item(
            image=batch["image"][row],
            label=int(batch["label"][row]),
            dataset=batch["dataset"][row],
            index=int(batch["index"][row]),
            path=batch["path"][row],
            key=batch["key"][row],
            error=batch["error"][row],
        )
        for row in range(len(batch["dataset"]))
    ]
