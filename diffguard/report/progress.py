"""Progress of a stage: a bar on a terminal, occasional lines everywhere else."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from diffguard.printing import printable

_REFRESH_SECONDS = 0.5


class StageProgress:
    """The progress of one stage; use it in a `with` block.

    Args:
        title: The stage, such as "1/3 classifier".
        total: Steps of the stage; None if unknown.
        count: Earlier steps of a stage that resumes.
        line_seconds: Seconds between lines if there is no terminal. The first and the last line
            are always printed.
        console: The console; defaults to standard error.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        count: int = 0,
        line_seconds: float = 15.0,
        console: Console | None = None,
    ) -> None:
        self.title, self.total, self.text = title, total, ""
        self.count = self._count_before = count
        self.console = console or Console(stderr=True)
        self.interval = _REFRESH_SECONDS if self.console.is_interactive else line_seconds
        self._began = time.monotonic()
        self._shown: float | None = None
        self._bar = self._terminal_bar() if self.console.is_interactive else None

    def _terminal_bar(self) -> Progress:
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            refresh_per_second=1 / _REFRESH_SECONDS,
        )
        bar.add_task(self.title, total=self.total, completed=self.count, text="")
        return bar

    def start(self) -> None:
        """Show the bar, if there is a terminal."""
        if self._bar is not None:
            self._bar.start()

    def __enter__(self) -> StageProgress:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        _exception: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close(complete=exception_type is None)

    @property
    def is_due(self) -> bool:
        """Whether it is time for an update; check it first if the text is costly to make."""
        return self._shown is None or time.monotonic() - self._shown >= self.interval

    def update(self, count: int, text: str = "") -> None:
        """Set the progress; it is shown if it is due.

        Args:
            count: Steps so far.
            text: Further information, such as the loss.
        """
        self.count, self.text = count, text
        if self.is_due:
            self._show()

    def close(self, *, complete: bool = True) -> None:
        """Show the last state and end the line.

        Args:
            complete: Whether the stage has ended and was not interrupted.
        """
        if self._bar is not None:
            self._show()
            self._bar.stop()
        else:
            verdict = "done" if complete else "interrupted"
            self._print(f"{verdict} after {clock(time.monotonic() - self._began)}")

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._bar is not None:
            text = printable(self.text, self.console.encoding)
            self._bar.update(self._bar.task_ids[0], completed=self.count, text=text)
        elif self.total is None:
            self._print(f"step {self.count}")
        else:
            self._print(f"{self.count / max(self.total, 1):.0%}{self._remaining()}")

    def _remaining(self) -> str:
        steps = self.count - self._count_before
        if self.total is None or steps <= 0:
            return ""
        seconds = (time.monotonic() - self._began) / steps * (self.total - self.count)
        return f", {clock(seconds)} left"

    def _print(self, state: str) -> None:
        line = f"{self.title}: {state}" + (f", {self.text}" if self.text else "")
        self.console.print(
            printable(line, self.console.encoding), markup=False, highlight=False, soft_wrap=True
        )


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
