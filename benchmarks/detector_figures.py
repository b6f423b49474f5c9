"""Figures of a detector: accuracy, calibration and robustness, and OOD detection."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from datamodules.ood import OODDataModule
from diffguard.classifiers.classifier import Classifier
from diffguard.detector import Detector
from diffguard.report.metrics import auroc
from diffguard.score_table.table import ScoreTable
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.scoring import ScoringRun
from lightning_modules.trainer import scoring_trainer

SCORES = ("msp", "energy", "knn", "diffguard", "fusion")
# The largest change of a pixel in an attack: that of the paper, and one for digits.
_EPSILONS = {"8/255": 8 / 255, "0.1": 0.1}
_PGD_STEPS = 10
_BATCH = 100

Figures = dict[str, float]


def classifier_figures(classifier: Classifier, data: OODDataModule) -> Figures:
    """Accuracy, expected calibration error, and accuracy under attack on all ID test images."""
    batches = list(data.stream_loader(data.id_stream("test")))
    images = torch.cat([batch["image"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([classifier(part) for part in inputs.split(_BATCH)])

    def accuracy(inputs: torch.Tensor) -> float:
        return float((logits(inputs).argmax(1) == labels).float().mean())

    error = MulticlassCalibrationError(classifier.num_classes, n_bins=15)(logits(images), labels)
    figures = {"accuracy": accuracy(images), "ECE": float(error)}
    target = PyTorchClassifier(
        classifier,
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        classifier.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    for name, epsilon in _EPSILONS.items():
        attacks = {
            "FGSM": FastGradientMethod(target, eps=epsilon, batch_size=_BATCH),
            "PGD": ProjectedGradientDescent(
                target,
                eps=epsilon,
                eps_step=epsilon / 4,
                max_iter=_PGD_STEPS,
                num_random_init=1,
                batch_size=_BATCH,
                verbose=False,
            ),
        }
        for attack_name, attack in attacks.items():
            np.random.seed(0)  # noqa: NPY002 - the library draws its start from this generator
            attacked = attack.generate(images.numpy(), labels.numpy())
            figures[f"{attack_name} {name}"] = accuracy(torch.from_numpy(attacked))
    return figures


def detection_figures(
    detector: Detector, data: OODDataModule, trainer: TrainerConfig, folder: Path
) -> Figures:
    """Mean AUROC of each score over the near-OOD and the far-OOD sets."""
    run = ScoringRun(
        detector, data, data.stream("test"), folder, {}, derive=True, threads=trainer.threads
    )
    table = ScoreTable.read(run.run(scoring_trainer(trainer, "evaluate")).table)
    names = np.array(table.dataset_names)[table.dataset]
    groups = data.groups
    figures = {}
    for score in SCORES:
        values = {name: torch.from_numpy(table.scores[score][names == name]) for name in groups}
        for group in ("near", "far"):
            sets = [values[name] for name in groups if groups[name] == group]
            figures[f"{score} {group}"] = mean(auroc(values[data.sets.name], ood) for ood in sets)
    return figures
