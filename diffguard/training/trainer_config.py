"""The `trainer` section of a config: how Lightning runs every stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from diffguard.errors import UserError
from diffguard.training.class_paths import ClassEntry, check_entry
from diffguard.training.precision import check_name
from diffguard.training.training_options import TrainingOptions

LoggerName = Literal["tensorboard", "csv", "wandb"]
ProfilerName = Literal["simple", "advanced", "pytorch"]

# More than any machine or cluster has; more threads end the process or hang.
_LARGEST = {"threads": 1024, "devices": 1024, "num_nodes": 100_000}


@dataclass(frozen=True)
class DeviceOptions:
    """How Lightning runs every stage and every evaluation.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, …
        devices: Number of devices (processes on a CPU), or `auto`. If torchrun, SLURM or another
            launcher has started the processes, their number counts instead.
        num_nodes: Number of machines; see `devices`.
        strategy: Lightning's strategy, such as `ddp`.
        precision: Lightning's precision, such as `bf16-mixed`. With `auto`, training has
            `32-true`, calibration `bf16-mixed` if this saves at least a minute, and an evaluation
            the precision of the calibration.
        threads: CPU threads of each process; defaults to the libraries' choice. The last bits of a
            score depend on it.
        progress: Show a progress bar, or lines if the output is not a terminal.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int | None = None
    progress: bool = True

    def check_devices(self) -> None:
        """Check the precision and the ranges.

        Raises:
            UserError: For a value out of range.
        """
        check_name(self.precision)
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            is_all = name == "devices" and value == -1  # Lightning's value for all devices
            if isinstance(value, int) and not is_all and not 1 <= value <= most:
                raise UserError(f"trainer.{name} must be 1 to {most:,}, got {value:,}")


@dataclass(frozen=True)
class TrainerConfig(TrainingOptions, DeviceOptions):
    """The `trainer` section: how Lightning runs every stage.

    Attributes:
        max_minutes: Training stops this many minutes after its start and saves its state;
            `--resume` continues from there and ends with the same weights as an uninterrupted run.
        measure_rate: Report images per second of each stage, and how much of the device it uses.
        loggers: Loggers of training and of the figures of an evaluation: `tensorboard`, `csv`,
            `wandb`, or a class path as in `callbacks`.
        callbacks: Further callbacks of training by class path:
            `{class_path: my_module.MyCallback, init_args: {name: value}}`.
        profiler: Measures where training spends its time: `simple`, `advanced` or `pytorch`, which
            write to `profiler/<stage>` in the run's folder, or a class path as in `callbacks`.
    """

    max_minutes: float | None = None
    measure_rate: bool = False
    loggers: list[LoggerName | ClassEntry] = field(default_factory=lambda: ["tensorboard"])
    callbacks: list[ClassEntry] = field(default_factory=list)
    profiler: ProfilerName | ClassEntry | None = None

    def __post_init__(self) -> None:
        self.check_devices()
        self.check_training()
        for entry in self.logger_classes:
            check_entry(entry, "trainer.loggers")
        for entry in self.callbacks:
            check_entry(entry, "trainer.callbacks")
        if isinstance(self.profiler, Mapping):
            check_entry(self.profiler, "trainer.profiler")
        if self.max_minutes is not None and not 0 < self.max_minutes < math.inf:
            raise UserError(
                f"trainer.max_minutes must be positive and finite, got {self.max_minutes:g}"
            )

    @property
    def logger_classes(self) -> list[ClassEntry]:
        """The loggers that are named by class path."""
        return [logger for logger in self.loggers if isinstance(logger, Mapping)]

    def deadline(self, began: float) -> float | None:
        """When training has to stop, on the clock of `time.monotonic`; None for no limit.

        Args:
            began: When the program began, on the same clock.
        """
        return None if self.max_minutes is None else began + 60.0 * self.max_minutes
