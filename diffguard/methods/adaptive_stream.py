"""A stream of scores that adapts its batch size to the memory."""

from __future__ import annotations

import sys
from collections.abc import Callable

from diffguard.batching import ROW_MULTIPLE, fixed_batch_size
from diffguard.engine.memory import free_memory, too_large
from diffguard.errors import UserError
from diffguard.failures import is_out_of_memory
from diffguard.methods.items import Item, Scored
from diffguard.methods.stream import ScoreStream
from diffguard.printing import say
from diffguard.score_table.rows import DIFFUSION_STAGE
from diffguard.score_table.timing import Work


class AdaptiveStream:
    """A `ScoreStream` that restarts with half the batch if memory runs out before the first row.

    Rows of images that some network has not seen, such as unreadable ones, are held back until the
    first other row.

    Args:
        open_stream: Batch size -> a new stream.
        batch_size: Rows of every network call.
        shrinks: Whether the batch may be halved.
        on_smaller: Called with the smaller batch size before the stream restarts.

    Attributes:
        stream: The current stream.
        row_count: Rows returned so far.
    """

    def __init__(
        self,
        open_stream: Callable[[int], ScoreStream],
        batch_size: int,
        *,
        shrinks: bool = True,
        on_smaller: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._open, self._shrinks, self._on_smaller = open_stream, shrinks, on_smaller
        self.stream = open_stream(batch_size)
        self.row_count = 0
        # All items pushed and rows finished before the first row was returned.
        self._items: list[Item] = []
        self._rows: list[Scored] = []

    def push(self, items: list[Item]) -> list[Scored]:
        """Take images in and return finished rows, in any order.

        Raises:
            UserError: If memory runs out and the batch cannot be halved; or see `ScoreStream`.
        """
        return self._score(items, final=False)

    def flush(self) -> list[Scored]:
        """Finish everything in flight; raises like `push`."""
        return self._score([], final=True)

    @property
    def fill(self) -> float:
        """Share of the rows of all diffusion calls that were not padding."""
        engine = self.stream.engine
        return engine.rows / (engine.calls * self.stream.batch_size) if engine.calls else 1.0

    @property
    def work(self) -> list[Work]:
        """What each score took so far."""
        return self.stream.meter.work(self.stream.engine.rows)

    def _score(self, items: list[Item], *, final: bool) -> list[Scored]:
        if not self.row_count:
            self._items += items
        while (rows := self._try(items, final=final)) is None:
            self._shrink()
            items = self._items
        self._rows += rows
        if not (final or self.row_count or any(map(self._was_everywhere, self._rows))):
            return []
        rows, self._rows, self._items = self._rows, [], []
        self.row_count += len(rows)
        return rows

    def _was_everywhere(self, image: Scored) -> bool:
        """Whether an image has been through all networks that the stream uses."""
        stage = image.row.stage
        return stage == DIFFUSION_STAGE or (stage is not None and self.stream.skip == "all")

    def _try(self, items: list[Item], *, final: bool) -> list[Scored] | None:
        """The finished rows; None if memory ran out."""
        try:
            return self.stream.push(items) + (self.stream.flush() if final else [])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = self.stream.batch_size
            if self.row_count or not self._shrinks or size <= ROW_MULTIPLE:
                raise UserError(too_large(size)) from error
        return None

    def _shrink(self) -> None:
        size = self.stream.batch_size
        smaller = fixed_batch_size(size // 2)
        self._rows = []
        del self.stream
        free_memory()
        say(f"out of memory with {size} images a batch: trying {smaller}", file=sys.stderr)
        self._on_smaller(smaller)
        self.stream = self._open(smaller)
