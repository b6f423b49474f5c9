"""The stages of training; each writes its model to the run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from safetensors.torch import save_file
from torch import nn

from diffguard.augment.mixtures import Mixtures
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.diffusion.denoiser import Denoiser
from diffguard.storage.files import replace_file
from diffguard.training.class_paths import build
from diffguard.training.noising import noised_images
from diffguard.training.precision import check_trainable
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.classifier_model import classifier_spec
from diffguard_cli.config import (
    ClassifierConfig,
    DiffusionConfig,
    NoisyClassifierConfig,
    StageConfig,
)
from diffguard_cli.diffusion_model import save_trained, to_train
from diffguard_cli.diffusion_spec import check_network
from diffguard_cli.interrupts import interruptible
from diffguard_cli.run import Run
from lightning_modules.base import TrainingModule, check_accumulation
from lightning_modules.callbacks.chart_layout import ChartLayout
from lightning_modules.callbacks.classifier_figures import ClassifierFigures
from lightning_modules.callbacks.config_log import ConfigLog
from lightning_modules.callbacks.samples import SampleGrid
from lightning_modules.callbacks.throughput import TrainingRate
from lightning_modules.callbacks.time_limit import TimeLimit
from lightning_modules.checkpoint_io import (
    EpochCheckpoint,
    SafeCheckpointIO,
    checkpoint_file,
    last_checkpoint,
)
from lightning_modules.classifier import ClassifierModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.loggers import build_loggers, end_runs
from lightning_modules.noisy_classifier import NoisyClassifierModule
from lightning_modules.profilers import build_profiler
from lightning_modules.trainer import build_trainer


def check_stages(run: Run, sections: Mapping[str, StageConfig]) -> None:
    """Check the data and precision of all stages before the first one is trained.

    Args:
        run: The run.
        sections: Stage -> its section, for each stage that will train.

    Raises:
        UserError: If the diffusion model is unknown or does not take the images, if gradients would
            be accumulated over more than an epoch, or if weights would be trained in half
            precision.
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    for stage, config in sections.items():
        if isinstance(config, DiffusionConfig) and config.finetune is None:
            check_network(config, run.data)
        check_trainable(stage, config.precision or run.trainer.precision)
        settings = _trainer_config(run, config)
        # Lightning checks the precision and the options.
        build_trainer(settings, stage, logger=False, **settings.training_arguments())
        data = _data_of(run, config)
        share = math.ceil(len(data.evaluation_sets("train")[0]) / processes)
        batches = max(1, share // data.config.train_batch_size)
        check_accumulation(stage, batches, run.trainer.accumulate_grad_batches)


def train_classifier(
    run: Run, config: ClassifierConfig, title: str, mixtures: Mixtures | None = None
) -> None:
    """Fit the classifier to the training images or their mixtures, and save its weights."""
    pl.seed_everything(run.seed, verbose=False)
    spec = classifier_spec(config, run.data)
    classifier = build_classifier(
        spec, pretrained=config.pretrained, new_head=True, trusted=[config.arch]
    )
    module = ClassifierModule(classifier, config, run.seed)
    figures = ClassifierFigures(run.data.class_names)
    trainer = _stage_trainer(run, module.stage, config, title, figures)
    _fit(run, trainer, module, config, mixtures)
    if trainer.is_global_zero:
        with replace_file(run.classifier_file) as temporary:
            save_file(_contiguous(classifier.network.state_dict()), temporary)
    trainer.strategy.barrier("classifier kept")


def train_diffusion(run: Run, config: DiffusionConfig, title: str) -> None:
    """Fit or fine-tune the diffusion model and save the moving average of its weights."""
    pl.seed_everything(run.seed, verbose=False)
    denoiser, spec = to_train(run, config)
    module = DiffusionModule(denoiser, config, run.seed)
    names, every = run.data.class_names, config.sample_every
    grids = [SampleGrid(every, class_names=names)] if every else []
    trainer = _stage_trainer(run, module.stage, config, title, *grids)
    _fit(run, trainer, module, config)
    if trainer.is_global_zero:
        save_trained(run, config, module.ema_denoiser(), spec)
    trainer.strategy.barrier("diffusion model kept")


def train_noisy_classifier(
    run: Run, config: NoisyClassifierConfig, denoiser: Denoiser, title: str
) -> None:
    """Fit a classifier of images with the diffusion model's noise, and save its weights."""
    pl.seed_everything(run.seed, verbose=False)
    trainer = _stage_trainer(run, "noisy_classifier", config, title)
    device = trainer.strategy.root_device
    if isinstance(denoiser, nn.Module):
        denoiser.to(device)
    noised = partial(noised_images, denoiser)
    side = run.data.image_size
    sample = torch.zeros(1, run.data.channels, side, side, device=device)
    channels = noised(sample, torch.zeros(1, dtype=torch.int64)).shape[1]
    network = TimedCNN(run.data.num_classes, channels, width=config.width)
    timesteps = len(denoiser.schedule)
    module = NoisyClassifierModule(network, noised, timesteps, config, run.seed)
    _fit(run, trainer, module, config)
    if trainer.is_global_zero:
        with replace_file(run.noisy_classifier_file) as temporary:
            save_file(_contiguous(network.state_dict()), temporary)
    trainer.strategy.barrier("classifier of noisy images kept")


def _stage_trainer(
    run: Run, stage: str, config: StageConfig, title: str, *callbacks: pl.Callback
) -> pl.Trainer:
    """The trainer of a stage; its checkpoints and logs go to the run's folder."""
    folder = _checkpoint_folder(run, stage)
    settings = _trainer_config(run, config)
    loggers = build_loggers(settings.loggers, run.folder, stage)
    more: list[pl.Callback] = [EpochCheckpoint(folder), ConfigLog(run.config), *callbacks]
    more.append(ChartLayout(stage))
    more.append(TrainingRate(run.say if settings.measure_rate else None))
    more += [build(entry, pl.Callback, "trainer.callbacks") for entry in settings.callbacks]
    if loggers and not any(isinstance(callback, LearningRateMonitor) for callback in more):
        more.append(LearningRateMonitor(logging_interval="epoch"))
    if run.deadline is not None:
        more.append(TimeLimit(run.deadline, checkpoint_file(folder)))
    return build_trainer(
        settings,
        title,
        callbacks=more,
        max_epochs=config.max_epochs,
        check_val_every_n_epoch=config.val_every,
        logger=loggers,
        profiler=build_profiler(settings.profiler, run.folder / "profiler" / stage),
        default_root_dir=run.folder,
        plugins=[SafeCheckpointIO()],
        **settings.training_arguments(),
    )


def _trainer_config(run: Run, config: StageConfig) -> TrainerConfig:
    return replace(run.trainer, precision=config.precision or run.trainer.precision)


def _fit(
    run: Run,
    trainer: pl.Trainer,
    module: TrainingModule,
    config: StageConfig,
    mixtures: Mixtures | None = None,
) -> None:
    """Train a stage, from its last checkpoint if there is one."""
    with interruptible():
        trainer.fit(
            module,
            datamodule=_data_of(run, config, mixtures),
            ckpt_path=last_checkpoint(_checkpoint_folder(run, module.stage)),
            weights_only=True,
        )
    end_runs(trainer.loggers)


def _checkpoint_folder(run: Run, stage: str) -> Path:
    return run.folder / "checkpoints" / stage


def _data_of(run: Run, config: StageConfig, mixtures: Mixtures | None = None) -> Any:
    return run.data.for_stage(config.augment, config.batch_size, mixtures)


def _contiguous(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
