"""Training of the protected classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from diffguard.classifiers.classifier import Classifier
from diffguard.engine.acceleration import accelerate
from diffguard.inputs.batch_parts import batch_images, check_classes, images_and_labels
from diffguard.training.settings import BatchMix, ClassifierTraining
from lightning_modules.base import TrainingModule

_DEFAULTS = ClassifierTraining()


class ClassifierModule(TrainingModule):
    """Fit a classifier by cross-entropy.

    It logs `classifier/train_loss`, `classifier/train_accuracy`, `classifier/val_loss` and
    `classifier/val_accuracy` once an epoch. A test logs `classifier/test_loss` and
    `classifier/test_accuracy` of the first test loader. A prediction returns the logits.
    A batch is a pair of images and labels, or a mapping with `image` and `label`; images are in
    [0, 1].

    Args:
        classifier: Network that maps images `(N, C, H, W)` in [0, 1] to logits `(N, K)`.
        settings: The hyper-parameters.
        seed: Seed of the run, at least 0.
    """

    settings: ClassifierTraining

    def __init__(
        self, classifier: Classifier, settings: ClassifierTraining = _DEFAULTS, seed: int = 0
    ) -> None:
        super().__init__(settings, seed)
        self.classifier = classifier
        self.val_accuracy = MulticlassAccuracy(classifier.num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classifier.num_classes, average="micro")
        self._mix = _batch_mix(settings.batch_mix, classifier.num_classes)
        # The network may have been loaded in evaluation mode.
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `(N, C, H, W)` in [0, 1] to logits `(N, K)`."""
        return self.classifier(images)

    def compile_networks(self) -> None:
        """Compile the network of the classifier."""
        accelerate(self.classifier.network, compile=True)

    def run_network(self, batch: Any) -> None:
        """Classify the images."""
        self(batch_images(batch))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Show the first batch to a network that initializes its weights from images.

        Such a network has a method `init_from_images`, which takes normalized images.
        """
        super().on_train_batch_start(batch, batch_idx)
        network: Any = self.classifier.network
        if batch_idx == 0 and self.global_step == 0 and hasattr(network, "init_from_images"):
            network.init_from_images(self.classifier.normalize(batch_images(batch)))
            # Each process has other images; all of them start with the network of the first.
            network.load_state_dict(self.trainer.strategy.broadcast(network.state_dict()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        images, labels = self._labeled(batch, batch_idx)
        images, targets = self._mix(images, labels)
        logits = self(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
        self.log_mean("train_loss", loss.detach(), len(labels))
        self.log_mean("train_accuracy", (logits.argmax(1) == labels).float().mean(), len(labels))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Cross-entropy without smoothing, and accuracy.

        Returns:
            `logits` `(N, K)` and `labels` `(N,)`, for callbacks.
        """
        return self._evaluate(batch, batch_idx, "val", self.val_accuracy)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The metrics of validation; loaders after the first hold OOD images."""
        if dataloader_idx == 0:
            self._evaluate(batch, batch_idx, "test", self.test_accuracy)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:  # noqa: ARG002
        """Logits `(N, K)` of a batch, with or without labels."""
        return self(batch_images(batch))

    def _labeled(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch, with a check of the first batch."""
        images, labels = images_and_labels(batch)
        if batch_idx == 0:  # each check waits for the GPU
            check_classes(labels, self.classifier.num_classes, "classifier")
        return images, labels

    def _evaluate(
        self, batch: Any, batch_idx: int, part: str, accuracy: MulticlassAccuracy
    ) -> dict[str, Tensor]:
        images, labels = self._labeled(batch, batch_idx)
        logits = self(images)
        accuracy.update(logits, labels)
        self.log_mean(f"{part}_loss", F.cross_entropy(logits, labels), len(labels))
        self.log_mean(f"{part}_accuracy", accuracy, len(labels))
        return {"logits": logits, "labels": labels}


def _batch_mix(name: BatchMix, classes: int) -> v2.Transform:
    """Maps images and labels to mixed images and shares of the classes, or to themselves."""
    if name == "none":
        return v2.Identity()
    return (v2.MixUp if name == "mixup" else v2.CutMix)(num_classes=classes)
