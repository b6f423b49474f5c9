"""The `trainer` section of a config: how Lightning runs every stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from diffguard.errors import UserError
from diffguard.training.class_paths import ClassEntry, check_entry
from diffguard.training.precision import check_name

LoggerName = Literal["tensorboard", "csv", "wandb"]

# More than any machine or cluster has; more threads end the process or hang.
_LARGEST = {"threads": 1024, "devices": 1024, "num_nodes": 100_000}
# Arguments of Lightning's Trainer that take plain values, and do not have a key of their own.
_OPTIONS = (
    "barebones",
    "benchmark",
    "detect_anomaly",
    "deterministic",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "inference_mode",
    "limit_train_batches",
    "limit_val_batches",
    "max_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "overfit_batches",
    "profiler",
    "reload_dataloaders_every_n_epochs",
    "sync_batchnorm",
    "val_check_interval",
)


@dataclass(frozen=True)
class TrainerConfig:
    """The `trainer` section: how Lightning runs every stage.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, …
        devices: Number of devices (processes on a CPU), or `auto`. If torchrun, SLURM or another
            launcher has started the processes, their number counts instead.
        num_nodes: Number of machines; see `devices`.
        strategy: Lightning's strategy, such as `ddp`.
        precision: Lightning's precision, such as `bf16-mixed`.
        gradient_clip_val: Largest norm of the gradient; None and 0 do not clip.
        accumulate_grad_batches: Training batches whose gradients are accumulated for one step.
        threads: CPU threads of each process; defaults to the libraries' choice. The last bits of a
            score depend on it.
        log_every_n_steps: Steps between logged values.
        max_minutes: Training stops this many minutes after its start and saves its state;
            `--resume` continues from there and ends with the same weights as an uninterrupted run.
        measure_rate: Report images per second of each stage, and how much of the device it uses.
        progress: Show a progress bar, or lines if the output is not a terminal.
        loggers: Loggers of training and of the figures of an evaluation: `tensorboard`, `csv`,
            `wandb`, or a class path as in `callbacks`. An evaluation always writes to TensorBoard.
        callbacks: Further callbacks of training by class path:
            `{class_path: my_module.MyCallback, init_args: {name: value}}`.
        options: Further arguments of Lightning's Trainer in training, such as
            `limit_train_batches`, `deterministic`, `profiler` or `fast_dev_run`.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    gradient_clip_val: float | None = 1.0
    accumulate_grad_batches: int = 1
    threads: int | None = None
    log_every_n_steps: int = 20
    max_minutes: float | None = None
    measure_rate: bool = False
    progress: bool = True
    loggers: list[LoggerName | ClassEntry] = field(default_factory=lambda: ["tensorboard"])
    callbacks: list[ClassEntry] = field(default_factory=list)
    options: dict[str, int | float | bool | str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.precision)
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            is_all = name == "devices" and value == -1  # Lightning's value for all devices
            if isinstance(value, int) and not is_all and not 1 <= value <= most:
                raise UserError(f"trainer.{name} must be 1 to {most:,}, got {value:,}")
        for name in ("accumulate_grad_batches", "log_every_n_steps"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"trainer.{name} must be at least 1, got {value:,}")
        for name in self.options:
            if name not in _OPTIONS:
                raise UserError(
                    f"trainer.options.{name} is not an argument of Lightning's Trainer, or has a "
                    f"key of its own; expected one of {', '.join(_OPTIONS)}"
                )
        for entry in self.logger_classes:
            check_entry(entry, "trainer.loggers")
        for entry in self.callbacks:
            check_entry(entry, "trainer.callbacks")
        clip, minutes = self.gradient_clip_val, self.max_minutes
        if clip is not None and not 0 <= clip < math.inf:
            raise UserError(
                "trainer.gradient_clip_val must be at least 0 (0 or null does not clip), got "
                f"{clip:g}"
            )
        if minutes is not None and not 0 < minutes < math.inf:
            raise UserError(f"trainer.max_minutes must be positive and finite, got {minutes:g}")

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
