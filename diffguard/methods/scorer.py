"""Scoring and judging images with a method, fitted baselines and a calibration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffguard.batching import AUTO, BATCH_SIZE, check_batch_size, fixed_batch_size
from diffguard.engine.acceleration import accelerate, check_compiler
from diffguard.errors import UserError
from diffguard.inputs.working import Images, working_images
from diffguard.methods.checks import check_fitted, check_rows, check_unlabeled
from diffguard.methods.items import Item, Scored
from diffguard.methods.models import ModelProperties, Models
from diffguard.methods.registry import Fits, build_methods
from diffguard.methods.stream import ScoreStream
from diffguard.methods.verdicts import Verdicts
from diffguard.score_table.rows import ScoreRow
from diffguard.scores.baselines import Baselines
from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion import Columns
from diffguard.scores.reference import Reference
from diffguard.settings.decision import decision_of
from diffguard.settings.detector import score_names
from diffguard.settings.selection import Selection, Skip


class Scorer(ModelProperties, nn.Module):
    """DiffGuard around a classifier, with baselines and a calibration: scores and verdicts.

    The scorer takes its networks over: they are put in evaluation mode, without gradients, and
    the diffusion network in the memory format and compile mode of the settings.

    Args:
        models: The networks and settings, in evaluation mode.
        reference: Features of ID training images, for the baselines that need them.
        fits: What methods and baselines were fitted to, by their names.
        calibration: Scores of ID validation images; None before calibration.

    Raises:
        UserError: If settings contradict each other or do not fit the models.
    """

    def __init__(
        self,
        models: Models,
        *,
        reference: Reference | None = None,
        fits: Fits | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        self.models = models
        self.reference = reference
        self.fits = fits or {}
        self.calibration = calibration
        settings, denoiser = models.settings, models.denoiser
        # Without the images that they need, the baselines are fitted by `calibrate`.
        self.baselines: Baselines | None = None
        if Baselines.can_be_fitted(settings.baselines, reference, self.fits):
            self.baselines = Baselines(
                settings.baselines,
                reference,
                models.classifier.head,
                models.classifier,
                self.fits,
                **settings.baseline_parameters,
            )
        network = getattr(denoiser, "network", None)
        if isinstance(network, nn.Module):
            # A run that measures whether compilation pays compiles the network itself.
            compile = False if settings.compile == "auto" else settings.compile
            accelerate(network, compile=compile, channels_last=settings.channels_last)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode, even inside a module in training; see `Models.train`."""
        return super().train(mode=False)

    @property
    def decision(self) -> str:
        """The score that decides on new images; see `decision_of`."""
        return decision_of(self.settings, self.calibration)

    def score_names(self, *, derived: bool = True) -> list[str]:
        """The scores of each image, in the order of the table's columns.

        Args:
            derived: Include those that need calibration: `diffguard` and its fusion.
        """
        return score_names(self.settings, derived=derived)

    def stream(
        self,
        batch_size: int,
        *,
        derive: bool = True,
        unguided: bool = False,
        only: str | None = None,
        skip: Skip | None = None,
    ) -> ScoreStream:
        """Open a stream that scores images in calls of one shape.

        Args:
            batch_size: Images of every network call, rounded up to a multiple of 8.
            derive: Add the scores that need calibration, if the detector is calibrated.
            unguided: Reconstruct without guidance too, even if no distance needs it.
            only: The only score that is needed: work that it does not need is left out, and rows
                lack the other scores. None computes all.
            skip: Which images skip the diffusion model, see `ScoreStream`; defaults to those of
                which it is not needed.

        Raises:
            UserError: If a baseline or a method is not fitted yet, or `settings.compile` is set
                and torch cannot compile on this machine.
        """
        check_fitted(self.settings, self.fits, baselines=self.baselines is not None)
        assert self.baselines is not None
        check_rows(batch_size, self.classifier, self.image_size)
        # A network may have been put in training mode on its own.
        self.eval()
        if self.settings.compile and self.settings.compile != AUTO:
            check_compiler(self.device)
        calibration = self.calibration if derive else None
        selection = Selection(self.settings, only)
        skip = skip or selection.skip
        # A stream has methods even if no image reaches them.
        names = None if skip == "all" else selection.plain
        methods = build_methods(self.models, self.fits, unguided=unguided, names=names)
        return ScoreStream(self.models, methods, self.baselines, calibration, batch_size, skip=skip)

    def in_doubt(self, scores: Columns, selection: Selection) -> NDArray[np.bool_]:
        """Whether the selected scores of images need the diffusion model, `(N,)`.

        Args:
            scores: Score -> `(N,)`, at least the baselines.
            selection: The scores that are computed.
        """
        if selection.skip == "clear":
            return self.require_calibration().in_doubt(scores)
        return np.full(len(next(iter(scores.values()))), selection.skip == "none")

    def require_calibration(self) -> Calibration:
        """The calibration.

        Raises:
            UserError: If the detector is not calibrated.
        """
        if self.calibration is None:
            raise UserError(
                "the detector is not calibrated: call detector.calibrate(validation_loader), or "
                "run the stage calibrate of training"
            )
        return self.calibration

    def score_images(self, images: Images, *, batch_size: int = BATCH_SIZE) -> list[Scored]:
        """Score images; returns all scores and reconstructions, in the order of the images.

        In a cascade, no image skips the diffusion model.

        Args:
            images: N images in any form, see `inputs.working.working_images`.
            batch_size: Images of every network call, at least 1.

        Raises:
            UserError: For images that `working_images` refuses, or a batch size below 1.
        """
        results = self._results(images, batch_size, skip="none")
        return sorted(results, key=lambda result: result.item.index)

    def _results(
        self, images: Images, batch_size: int, *, only: str | None = None, skip: Skip | None = None
    ) -> Iterator[Scored]:
        """Scored images as they are finished, so that a reconstruction need not be kept."""
        check_batch_size(batch_size)
        images = working_images(images, self.image_size, self.image_channels)
        batch_size = min(batch_size, fixed_batch_size(max(1, len(images))))
        stream = self.stream(batch_size, only=only, skip=skip)
        items = [Item(image, index=i) for i, image in enumerate(images)]
        for start in range(0, len(items), stream.batch_size):
            yield from stream.push(items[start : start + stream.batch_size])
        yield from stream.flush()

    def _rows(self, images: Images, batch_size: int, name: str) -> list[ScoreRow]:
        """Rows of the score table with one score at least, in the order of the images."""
        results = self._results(images, batch_size, only=name)
        return sorted((result.row for result in results), key=lambda row: row.index)

    def score(
        self, images: Images, *, name: str | None = None, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Score images.

        Args:
            images: N images in any form, see `inputs.working.working_images`.
            name: The score; defaults to `decision`.
            batch_size: Images of every network call, at least 1.

        Returns:
            `(N,)` float64 on the CPU, higher = more OOD.

        Raises:
            UserError: For images that `working_images` refuses, or an unknown score.
        """
        name = name or self.decision
        if name not in self.score_names(derived=self.calibration is not None):
            raise UserError(f"the detector has no score {name!r}: {', '.join(self.score_names())}")
        rows = self._rows(images, batch_size, name)
        return torch.tensor([row.scores[name] for row in rows], dtype=torch.float64)

    def forward(self, images: Images) -> Tensor:
        """Score images by the decision score; see `score`."""
        return self.score(images)

    def predict(
        self,
        images: Images,
        *,
        accept: float | None = None,
        fdr: float | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Verdicts:
        """Classify images and decide which of them are OOD.

        Args:
            images: N images in any form, see `inputs.working.working_images`.
            accept: Share of ID images to accept, in (0, 1); defaults to `settings.accept`.
            fdr: Instead of `accept`: the images are judged together, and the expected share of ID
                images among the flagged ones is at most this false discovery rate in (0, 1).
            batch_size: Images of every network call, at least 1.

        Raises:
            UserError: For images that `working_images` refuses, without calibration, with `accept`
                and `fdr`, if either needs more ID validation images, or if the settings need true
                labels.
        """
        check_unlabeled(self.settings)
        if accept is not None and fdr is not None:
            raise UserError("give either accept or fdr: they are two rules of decision")
        calibration, name = self.require_calibration(), self.decision
        accept = self.settings.accept if accept is None else accept
        # Refuses a wrong share before images are scored.
        calibration.judge(name, [], accept=accept, fdr=fdr)
        rows = self._rows(images, batch_size, name)
        names = self.classifier.class_names
        return Verdicts.from_rows(rows, calibration, name, accept, class_names=names, fdr=fdr)
