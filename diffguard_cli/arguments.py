"""Typed arguments of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from diffguard_cli.config import (
    ClassifierConfig,
    DiffusionConfig,
    NoisyClassifierConfig,
    StageConfig,
)

if TYPE_CHECKING:
    from datamodules.ood import OODDataModule
    from diffguard.augment.settings import AugmentSettings
    from diffguard.settings.detector import DetectorSettings
    from diffguard.training.trainer_config import TrainerConfig

Stage = Literal["classifier", "diffusion", "noisy_classifier", "augment", "calibrate"]
# Stages that run by default, by augment.method.
DEFAULT_STAGES: dict[str, list[Stage]] = {
    "none": ["classifier", "diffusion", "calibrate"],
    "diffusemix": ["diffusion", "augment", "classifier", "calibrate"],
}
Arguments = TypeVar("Arguments")


@dataclass(frozen=True)
class TrainingArguments:
    """The command line of training.

    Attributes:
        seed: Seed of every stage.
        run_dir: Folder of the new run; defaults to a name from the config and the time.
        resume: Folder of the run to resume; None starts a new run.
        stages: Stages to run, in order.
        dry_run: Whether to print the cost only.
        data: The DataModule.
        classifier: The `classifier` section.
        diffusion: The `diffusion` section.
        noisy_classifier: The `noisy_classifier` section.
        augment: The `augment` section.
        detector: The `detector` section.
        trainer: The `trainer` section.
    """

    seed: int
    run_dir: str | None
    resume: str | None
    stages: list[Stage]
    dry_run: bool
    data: OODDataModule
    classifier: ClassifierConfig
    diffusion: DiffusionConfig
    noisy_classifier: NoisyClassifierConfig
    augment: AugmentSettings
    detector: DetectorSettings
    trainer: TrainerConfig

    @property
    def sections(self) -> dict[str, StageConfig]:
        """Stage -> section, for each stage that trains."""
        return {
            "classifier": self.classifier,
            "diffusion": self.diffusion,
            "noisy_classifier": self.noisy_classifier,
        }


@dataclass(frozen=True)
class EvaluationArguments:
    """The command line of an evaluation that needs a detector.

    Attributes:
        ckpt: The detector checkpoint.
        seeds: Seeds of the detector, if the command evaluates it with several.
        seed: The one of this evaluation; None for the checkpoint's.
        output: Folder of the results; defaults to a folder beside the checkpoint.
        images: Files, folders and patterns of images to score; empty scores the sets of `data`.
        explain: Whether to explain the verdict on each of these images.
        accept: Share of ID images to accept; defaults to `detector.accept`.
        fdr: False discovery rate at which the images are flagged instead; None for `accept`.
        drift: Whether the images as a whole are compared with the ID validation images.
        trusted: Classes and architectures that the checkpoint may name.
        diffusion_model: Path of the diffusion model that the checkpoint refers to; defaults to the
            path in the checkpoint.
        dry_run: Whether to print the cost only.
        panels: Images that are reconstructed for pictures, per panel or of `images`; `all`
            reconstructs every image of the report's gallery; None for the defaults.
        full_table: Whether to print every score on every set.
        fuse: Additional fusions, which need `--scores`.
        data: The DataModule.
        detector: The `detector` section.
        trainer: The `trainer` section.
        command: The command line.
    """

    ckpt: str
    seeds: list[int]
    seed: int | None
    output: str | None
    images: list[str]
    explain: bool
    accept: float | None
    fdr: float | None
    drift: bool
    trusted: list[str]
    diffusion_model: str | None
    dry_run: bool
    panels: int | Literal["all"] | None
    full_table: bool
    fuse: dict[str, list[str]]
    data: OODDataModule
    detector: DetectorSettings
    trainer: TrainerConfig
    command: str


def typed(kind: type[Arguments], namespace: Any) -> Arguments:
    """Make typed arguments from the instantiated namespace of a parser, and open the data.

    Raises:
        UserError: For names or sources of data that are wrong.
    """
    from datamodules.ood import OODDataModule

    values = {field.name: namespace[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{**values, "data": OODDataModule(values["data"])})
