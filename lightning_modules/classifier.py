"""Training of the protected classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from diffguard.classifiers.classifier import Classifier
from lightning_modules.base import OptimizerName, ScheduleName, TrainingModule
from lightning_modules.training_values import check_values


class ClassifierModule(TrainingModule):
    """Fit a classifier by cross-entropy.

    It logs `classifier/train_loss`, `classifier/train_accuracy`, `classifier/val_loss` and
    `classifier/val_accuracy` once an epoch.

    Args:
        classifier: Network that maps images `(N, C, H, W)` in [0, 1] to logits `(N, K)`.
        lr: See `TrainingModule`, as for the other arguments not named here.
        weight_decay: See `TrainingModule`.
        optimizer: See `TrainingModule`.
        schedule: See `TrainingModule`.
        warmup: See `TrainingModule`.
        label_smoothing: Probability mass in [0, 1) that is spread over all classes in training.
        channels_last: See `TrainingModule`.
        compiled: See `TrainingModule`.
        seed: See `TrainingModule`.
    """

    stage = "classifier"

    def __init__(
        self,
        classifier: Classifier,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        optimizer: OptimizerName = "adamw",
        schedule: ScheduleName = "one_cycle",
        warmup: float = 0.25,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compiled: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            optimizer=optimizer,
            schedule=schedule,
            warmup=warmup,
            channels_last=channels_last,
            compiled=compiled,
            seed=seed,
        )
        self.label_smoothing = label_smoothing
        check_values(self.stage, {"label_smoothing": label_smoothing})
        self.classifier = classifier
        self.val_accuracy = MulticlassAccuracy(classifier.num_classes, average="micro")
        # Whoever loaded the network may have left it in evaluation mode.
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `(N, C, H, W)` in [0, 1] to logits `(N, K)`."""
        return self.classifier(images)

    def compile_networks(self) -> None:
        """Compile the network of the classifier."""
        self.classifier.network.compile(dynamic=False)

    def run_network(self, batch: Mapping[str, Any]) -> None:
        """Classify the images."""
        self(batch["image"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the generators; show the first batch to a network that is initialised from images.

        Such a network has a method `init_from_images`, which takes normalised images.
        """
        super().on_train_batch_start(batch, batch_idx)
        network: Any = self.classifier.network
        if batch_idx == 0 and self.global_step == 0 and hasattr(network, "init_from_images"):
            network.init_from_images(self.classifier.normalize(batch["image"]))
            # Each process has other images, and all begin with the network of the first.
            network.load_state_dict(self.trainer.strategy.broadcast(network.state_dict()))

    def training_step(self, batch: dict[str, Any], _batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        images, labels = batch["image"], batch["label"]
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.log_mean("train_loss", loss.detach(), len(labels))
        self.log_mean("train_accuracy", (logits.argmax(1) == labels).float().mean(), len(labels))
        return loss

    def validation_step(self, batch: dict[str, Any], _batch_idx: int) -> None:
        """Cross-entropy without smoothing, and accuracy."""
        images, labels = batch["image"], batch["label"]
        logits = self(images)
        self.val_accuracy.update(logits, labels)
        self.log_mean("val_loss", F.cross_entropy(logits, labels), len(labels))
        self.log_mean("val_accuracy", self.val_accuracy, len(labels))
