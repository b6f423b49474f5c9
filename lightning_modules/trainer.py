"""Builds a Trainer from the config, for training and for scoring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from diffguard.denoisers import custom
from diffguard.errors import UserError, one_line
from lightning_modules.callbacks.scoring_bar import ScoringProgressBar
from lightning_modules.callbacks.training_bar import StageProgressBar
from lightning_modules.class_paths import ClassEntry, check_entry, class_of
from lightning_modules.launchers import process_arguments
from lightning_modules.loggers import LoggerName
from lightning_modules.precision import check_device, check_name
from lightning_modules.quiet import quiet_libraries
from lightning_modules.termination import end_together

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


def build_trainer(
    config: TrainerConfig,
    title: str,
    callbacks: list[pl.Callback] | None = None,
    bar: type[StageProgressBar] = StageProgressBar,
    **options: Any,
) -> pl.Trainer:
    """Build a Trainer.

    Args:
        config: The `trainer` section.
        title: Title of the progress bar.
        callbacks: Further callbacks.
        bar: Class of the progress bar.
        **options: Further arguments of the Trainer.

    Raises:
        UserError: For values that Lightning or the machine rejects.
    """
    bars: list[pl.Callback] = [bar(title)] if config.progress else []
    # Importing Lightning turns its advice on.
    quiet_libraries()
    try:
        processes = process_arguments(config.devices, config.num_nodes)
        plugins = [*processes.pop("plugins", []), *options.pop("plugins", [])]
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            **processes,
            plugins=plugins or None,
            strategy=config.strategy,
            precision=config.precision,  # type: ignore[arg-type]
            callbacks=[_Threads(config.threads), *bars, *(callbacks or [])],
            enable_progress_bar=config.progress,
            enable_model_summary=False,
            # The loaders divide the images themselves, so no image is repeated.
            use_distributed_sampler=False,
            **options,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {one_line(error)}") from error
    _check_strategy(trainer, config.strategy, processes["devices"])
    check_device(config.precision, trainer.strategy.root_device)
    return trainer


def _check_strategy(trainer: pl.Trainer, strategy: str, devices: int | str) -> None:
    """Raise `UserError` for a strategy that cannot use the devices, or forks its processes."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UserError(
            f"trainer.strategy {strategy} starts new processes in each stage, and loses what the "
            "earlier ones have computed: use ddp"
        )
    if isinstance(devices, int) and devices > 1 and trainer.num_devices == 1:
        raise UserError(
            f"trainer.strategy {strategy} uses one device, not {devices}: use ddp, or set "
            "trainer.devices to 1"
        )


class _Threads(pl.Callback):
    """Sets the number of CPU threads after Lightning has divided the cores among the processes."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        if self.threads is not None:
            torch.set_num_threads(self.threads)


class _EndAtOnce(pl.Callback):
    """Lets SIGTERM end a process that scores; what it has finished is on disk.

    Lightning would notify the other processes first, and wait for one that may be dead.
    """

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        end_together()


def scoring_trainer(config: TrainerConfig, title: str) -> pl.Trainer:
    """A Trainer for scoring, without logger and checkpoints.

    Under `bf16-true` and `16-true`, only the weights of the diffusion model have half precision
    (see `weight_dtype`); images, states and scores stay float32.
    """
    if weight_dtype(config) != torch.float32:
        config = replace(config, precision="32-true")
    # Otherwise a GPU may sum the gradient of a convolution in a different order each time.
    torch.backends.cudnn.deterministic = True
    return build_trainer(
        config,
        title,
        [_EndAtOnce()],
        bar=ScoringProgressBar,
        logger=False,
        enable_checkpointing=False,
    )


def weight_dtype(config: TrainerConfig) -> torch.dtype:
    """Dtype of the diffusion model's weights in scoring, for the trainer's precision."""
    halves = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
    return halves.get(str(config.precision), torch.float32)


def cast_weights(denoiser: Any, config: TrainerConfig) -> None:
    """Convert a diffusion model's weights to the trainer's precision; see `weight_dtype`."""
    custom.cast_weights(denoiser, weight_dtype(config))


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
        for key, _, entry in self._class_entries():
            check_entry(entry, key)
        clip, minutes = self.gradient_clip_val, self.max_minutes
        if clip is not None and not 0 <= clip < math.inf:
            raise UserError(
                "trainer.gradient_clip_val must be at least 0 (0 or null does not clip), got "
                f"{clip:g}"
            )
        if minutes is not None and not 0 < minutes < math.inf:
            raise UserError(f"trainer.max_minutes must be positive and finite, got {minutes:g}")

    def check_classes(self) -> None:
        """Import the classes of loggers and callbacks, and check their arguments.

        Raises:
            UserError: If a class cannot be imported, is of another kind, or does not take its
                arguments.
        """
        for key, kind, entry in self._class_entries():
            class_of(entry, kind, key)

    def _class_entries(self) -> Iterator[tuple[str, type[Any], ClassEntry]]:
        """Key, base class and entry of each class path."""
        for logger in self.loggers:
            if isinstance(logger, Mapping):
                yield "trainer.loggers", Logger, logger
        for callback in self.callbacks:
            yield "trainer.callbacks", pl.Callback, callback
