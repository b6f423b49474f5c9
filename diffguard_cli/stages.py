"""The stages of training; each leaves its artefact in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import save_file

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.diffusion.denoiser import Denoiser
from diffguard.storage.files import replace_file
from diffguard_cli.config import (
    ClassifierConfig,
    DiffusionConfig,
    NoisyClassifierConfig,
    StageConfig,
)
from diffguard_cli.interrupts import interruptible
from diffguard_cli.models import check_network, classifier_spec, keep_trained, to_train
from diffguard_cli.run import Run
from lightning_modules.base import TrainingModule
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
from lightning_modules.noisy_classifier import NoisyClassifierModule
from lightning_modules.trainer import build_trainer
from lightning_modules.training_values import check_accumulation, check_precision


def check_stages(run: Run, sections: Mapping[str, StageConfig]) -> None:
    """Check what a stage needs of its data and precision, before the first one is trained.

    Args:
        run: The run.
        sections: Stage -> its section, for each stage that will train.

    Raises:
        UserError: If the diffusion model is not known or does not take the images, gradients would
            be accumulated over more than an epoch, or weights be trained in half precision.
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    for stage, config in sections.items():
        if isinstance(config, DiffusionConfig) and config.finetune is None:
            check_network(config, run.data)
        check_precision(stage, getattr(config, "precision", None) or run.trainer.precision)
        data = _data_of(run, config)
        share = math.ceil(len(data.evaluation_sets("train")[0]) / processes)
        batches = max(1, share // data.train_batch_size)
        check_accumulation(stage, batches, run.trainer.accumulate_grad_batches)


def train_classifier(run: Run, config: ClassifierConfig, title: str) -> None:
    """Fit the classifier and keep its weights."""
    pl.seed_everything(run.seed, verbose=False)
    spec = classifier_spec(config, run.data)
    classifier = build_classifier(
        spec, pretrained=config.pretrained, new_head=True, trusted=[config.arch]
    )
    module = ClassifierModule(
        classifier,
        lr=config.lr,
        weight_decay=config.weight_decay,
        optimizer=config.optimizer,
        schedule=config.schedule,
        warmup=config.warmup,
        channels_last=config.channels_last,
        compiled=config.compiled,
        label_smoothing=config.label_smoothing,
        seed=run.seed,
    )
    trainer = _fit(run, module, title, config)
    if trainer.is_global_zero:
        with replace_file(run.classifier_file) as temporary:
            save_file(_contiguous(classifier.network.state_dict()), temporary)
    trainer.strategy.barrier("classifier kept")


def train_diffusion(run: Run, config: DiffusionConfig, title: str) -> None:
    """Fit or fine-tune the diffusion model and keep the moving average of its weights."""
    pl.seed_everything(run.seed, verbose=False)
    denoiser, spec = to_train(run, config)
    module = DiffusionModule(
        denoiser,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        ema_decay=config.ema_decay,
        label_dropout=config.label_dropout,
        loss_weighting=config.loss_weighting,
        min_snr_gamma=config.min_snr_gamma,
        betas=(config.betas[0], config.betas[1]),
        channels_last=config.channels_last,
        compiled=config.compiled,
        seed=run.seed,
    )
    extra = [SampleGrid(config.sample_every)] if config.sample_every else []
    trainer = _fit(run, module, title, config, *extra)
    if trainer.is_global_zero:
        keep_trained(run, config, module.ema_denoiser(), spec)
    trainer.strategy.barrier("diffusion model kept")


def train_noisy_classifier(
    run: Run, config: NoisyClassifierConfig, denoiser: Denoiser, title: str
) -> None:
    """Fit a classifier of noisy images for the diffusion model's states."""
    pl.seed_everything(run.seed, verbose=False)
    side = run.data.image_size
    with torch.no_grad():
        seen = denoiser.preview(denoiser.encode(torch.zeros(1, run.data.channels, side, side)))
    network = TimedCNN(run.data.num_classes, seen.shape[1], config.width)
    module = NoisyClassifierModule(
        network, denoiser, lr=config.lr, weight_decay=config.weight_decay, seed=run.seed
    )
    trainer = _fit(run, module, title, config)
    if trainer.is_global_zero:
        with replace_file(run.noisy_classifier_file) as temporary:
            save_file(_contiguous(network.state_dict()), temporary)
    trainer.strategy.barrier("classifier of noisy images kept")


def _fit(
    run: Run,
    module: TrainingModule,
    title: str,
    stage: StageConfig,
    *extra: pl.Callback,
) -> pl.Trainer:
    checkpoints = run.folder / "checkpoints" / module.stage
    data, config = _data_of(run, stage), run.trainer
    callbacks = [EpochCheckpoint(checkpoints), *extra]
    if not isinstance(stage, NoisyClassifierConfig):
        config = replace(config, precision=stage.precision or config.precision)
    if config.measure_rate:
        callbacks.append(TrainingRate(run.say))
    if run.deadline is not None:
        callbacks.append(TimeLimit(run.deadline, checkpoint_file(checkpoints)))
    trainer = build_trainer(
        config,
        title,
        callbacks=callbacks,
        max_epochs=stage.max_epochs,
        check_val_every_n_epoch=stage.val_every,
        gradient_clip_val=config.gradient_clip_val,
        accumulate_grad_batches=config.accumulate_grad_batches,
        log_every_n_steps=config.log_every_n_steps,
        logger=TensorBoardLogger(run.folder, name="tensorboard", version=module.stage),
        plugins=[SafeCheckpointIO()],
        num_sanity_val_steps=0,
    )
    with interruptible():
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=last_checkpoint(checkpoints),
            weights_only=True,
        )
    return trainer


def _data_of(run: Run, stage: StageConfig) -> Any:
    if isinstance(stage, NoisyClassifierConfig):
        return run.data
    return run.data.for_stage(stage.augment, stage.batch_size)


def _contiguous(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
