"""The shell that pushes images through a detector and lets finished rows out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from diffguard.batching import ROW_MULTIPLE, fixed_batch_size
from diffguard.detector import Detector
from diffguard.engine.memory import free_memory, is_out_of_memory, too_large
from diffguard.errors import UserError
from diffguard.methods.items import Item, Scored
from diffguard.methods.stream import ScoreStream
from diffguard.printing import say

RowSink = Callable[[Sequence[Scored]], None]
OpenLoader = Callable[[pl.Trainer], Any]


class DetectorModule(pl.LightningModule):
    """Scores the images of a test loader; Lightning brings device, precision and processes.

    Where memory runs out before the first row, a single process starts again with half the batch.

    Args:
        detector: What scores them.
        batch_size: Tells the rows of every network call, once the loader is open.
        sink: Called with each chunk of finished images, on every rank.
        open_loader: Gives the batches of this process, once the processes are connected.
        derive: Whether the scores that need calibration are added; calibration runs without.
        on_smaller: Called with the new batch size where memory ran out.

    Attributes:
        scored: Images scored by this process.
        seconds: Wall time from the first batch to the last row.
        fill: Share of the rows of all diffusion calls that were no padding.
    """

    def __init__(
        self,
        detector: Detector,
        batch_size: Callable[[], int],
        sink: RowSink,
        open_loader: OpenLoader,
        *,
        derive: bool = True,
        on_smaller: Callable[[int], None] = lambda _size: None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.batch_size = batch_size
        self.sink = sink
        self.open_loader = open_loader
        self.derive = derive
        self.on_smaller = on_smaller
        self.scored = 0
        self.seconds = 0.0
        self.fill = 0.0
        self._stream: ScoreStream | None = None
        self._began = 0.0
        # All that came in and went out before the first row was written: it can be done again.
        self._seen: list[Item] = []
        self._held: list[Scored] = []

    def test_dataloader(self) -> Any:
        """This process's share of the images."""
        return self.open_loader(self.trainer)

    def on_test_epoch_start(self) -> None:
        """Open the stream."""
        self._open(self.batch_size())
        self._began = time.perf_counter()

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Push a batch in, and hand on what is finished."""
        self._score(items_of(batch), final=False)

    def on_test_epoch_end(self) -> None:
        """Finish what is in flight."""
        stream = self._score([], final=True)
        self.seconds = time.perf_counter() - self._began
        calls = stream.reconstructor.calls
        self.fill = stream.reconstructor.rows / (calls * stream.batch_size) if calls else 1.0
        self._stream = None

    def _open(self, batch_size: int) -> None:
        self._stream = self.detector.stream(batch_size, derive=self.derive)

    def _score(self, items: list[Item], *, final: bool) -> ScoreStream:
        """Score further images, in smaller batches where memory runs out before the first row."""
        again = items
        if not self.scored:
            self._seen += items
        while (rows := self._try(again, final=final)) is None:
            self._shrink()
            again = self._seen
        self._held += rows
        # Images that could not be read have rows too, but no network has seen them.
        if final or self.scored or any(one.reconstruction is not None for one in self._held):
            rows, self._held, self._seen = self._held, [], []
            if rows:
                self.sink(rows)
                self.scored += len(rows)
        return self._open_stream()

    def _try(self, items: list[Item], *, final: bool) -> list[Scored] | None:
        """The rows that are finished; None where memory ran out."""
        stream = self._open_stream()
        try:
            # Lightning enters the precision in its steps alone, and the last rows come after them.
            with self.trainer.precision_plugin.test_step_context():
                return stream.push(items) + (stream.flush() if final else [])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.scored or self.trainer.world_size > 1 or stream.batch_size <= ROW_MULTIPLE:
                raise UserError(too_large(stream.batch_size)) from error
        return None

    def _shrink(self) -> None:
        size = self._open_stream().batch_size
        smaller = fixed_batch_size(size // 2)
        self._stream, self._held = None, []
        free_memory()
        say(f"out of memory with {size} images a batch: trying {smaller}", file=sys.stderr)
        self.on_smaller(smaller)
        self._open(smaller)

    def _open_stream(self) -> ScoreStream:
        if self._stream is None:
            raise UserError("images reached the detector outside of an evaluation")
        return self._stream


def items_of(batch: Mapping[str, Any]) -> list[Item]:
    """The items of a batch of `datamodules`."""
    return [
        Item(
            image=batch["image"][row],
            label=int(batch["label"][row]),
            dataset=batch["dataset"][row],
            index=int(batch["index"][row]),
            path=batch["path"][row],
            error=batch["error"][row],
        )
        for row in range(len(batch["dataset"]))
    ]
