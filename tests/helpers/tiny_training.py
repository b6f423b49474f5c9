"""Tiny data, networks and a Trainer for the tests of training."""

from itertools import starmap

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from lightning import Callback, Trainer
from torch import nn

from datamodules.augmentation import Prepare
from datamodules.evaluation_stream import EvaluationStream
from datamodules.image_set import TensorSet
from datamodules.loader import ImageLoader, collate
from datamodules.training_stream import EpochSampler, TrainingStream
from diffguard.classifiers.classifier import Classifier
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.diffusion.schedule import NoiseSchedule
from lightning_modules.checkpoint_io import EpochCheckpoint, SafeCheckpointIO

SIDE = 8


class CrashError(Exception):
    pass


class Crash(Callback):
    """Raises in the middle of an epoch, like a power cut."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, _module, _outputs, _batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise CrashError


def images_of_three_classes(count=48):
    """Images of a square on noise at a place per class, which are learned in a few steps."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = 0.2 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 3, 2 * label : 2 * label + 3] = 1.0
    return TensorSet("tiny", (images * 255).to(torch.uint8), labels, ("a", "b", "c"))


def train_loader(augment=None, batch_size=12):
    stream = TrainingStream(images_of_three_classes(), Prepare(SIDE, 1), augment, seed=5)
    return ImageLoader(
        stream,
        batch_size=batch_size,
        sampler=EpochSampler(stream, num_replicas=1, rank=0, seed=5),
        collate_fn=collate,
    )


def val_loader():
    stream = EvaluationStream([images_of_three_classes(20)], Prepare(SIDE, 1))
    return ImageLoader(stream, batch_size=8, collate_fn=collate)


def classifier():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8 * SIDE * SIDE // 4, 3),
    )
    return Classifier(network, num_classes=3, channels=1)


def denoiser(kind="unet", num_classes=3, out_channels=1, prediction="epsilon"):
    torch.manual_seed(0)
    if kind == "dit":
        network = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=1,
            num_layers=2,
            sample_size=SIDE,
            norm_num_groups=4,
            num_embeds_ada_norm=num_classes,
        )
    else:
        network = UNet2DModel(
            sample_size=SIDE,
            in_channels=1,
            out_channels=out_channels,
            layers_per_block=1,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            num_class_embeds=None if num_classes is None else num_classes + 1,
            add_attention=False,
            dropout=0.1,
        )
    schedule = NoiseSchedule.linear(prediction_type=prediction)
    return PixelDenoiser(network, schedule, SIDE, 1, num_classes, num_classes)


def trainer(folder, *, max_epochs=4, callbacks=(), **options):
    options = {"logger": False, "num_sanity_val_steps": 0} | options
    options.setdefault("plugins", [SafeCheckpointIO()])
    return Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        callbacks=[*callbacks, EpochCheckpoint(folder)],
        default_root_dir=folder,
        enable_progress_bar=options.pop("enable_progress_bar", False),
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


def assert_same_training(first, second):
    """Assert that weights, averages, buffers, optimizer and schedule are bitwise equal."""
    states = [t.lightning_module.state_dict() for t in (first, second)]
    assert states[0].keys() == states[1].keys()
    different = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert different == []
    moments = [t.optimizers[0].state_dict() for t in (first, second)]
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    schedules = [t.lr_scheduler_configs[0].scheduler.get_last_lr() for t in (first, second)]
    assert schedules[0] == schedules[1]
    assert first.global_step == second.global_step


def bits_differ(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return not all(starmap(torch.equal, pairs))
