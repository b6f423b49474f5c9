"""Verdicts: the decision for each image, with the numbers behind it."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import torch
from torch import Tensor

from diffguard.score_table.rows import ScoreRow
from diffguard.scores.calibration import Calibration

# A longer list of verdicts is cut in `repr`.
_SHOWN = 10


@dataclass(frozen=True)
class Verdict:
    """A detector's verdict on one image.

    Attributes:
        label: The predicted class, 0 … K - 1.
        class_name: Its name.
        probability: Its softmax probability, in [0, 1].
        score: The decision score, higher = more OOD.
        percentile: Share of ID validation images with at most this score, 0 … 100.
        p_value: Conformal p-value, in (0, 1], lower = more OOD; see `scores.conformal`.
        is_ood: Whether the image is judged OOD.
        stage: 1 if the baselines decided alone, 2 if the diffusion model took part.

    Example:
        >>> verdict = Verdict(7, "seven", 0.62, 3.1, 99.2, 0.01, is_ood=True, stage=2)
        >>> verdict.to_dict()["class_name"]
        'seven'
    """

    label: int
    class_name: str
    probability: float
    score: float
    percentile: float
    p_value: float
    is_ood: bool
    stage: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{'OOD' if self.is_ood else 'ID '}  {self.class_name}  "
            f"probability {self.probability:.2f}  score {self.score:.4g}  "
            f"percentile {self.percentile:.1f}  p-value {self.p_value:.3g}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Verdicts(Sequence[Verdict]):
    """A detector's verdicts on N images: a sequence of `Verdict`, and a tensor per attribute.

    Attributes:
        label: `(N,)` int64, the predicted class.
        probability: `(N,)` float64 softmax probability of that class, in [0, 1].
        score: `(N,)` float64 decision score, higher = more OOD.
        percentile: `(N,)` float64 share of ID validation images with at most this score, 0 … 100.
        p_value: `(N,)` float64 conformal p-value, in (0, 1], lower = more OOD.
        is_ood: `(N,)` bool, whether the image is judged OOD.
        stage: `(N,)` int64, 1 if the baselines decided alone, 2 if the diffusion model took part.
        class_names: Names of all classes.

    Example:
        >>> verdicts = Verdicts(
        ...     label=torch.tensor([0, 1]),
        ...     probability=torch.tensor([0.9, 0.5]).double(),
        ...     score=torch.tensor([0.1, 2.5]).double(),
        ...     percentile=torch.tensor([40.0, 100.0]).double(),
        ...     p_value=torch.tensor([0.61, 0.01]).double(),
        ...     is_ood=torch.tensor([False, True]),
        ...     stage=torch.tensor([2, 2]),
        ...     class_names=("cat", "dog"),
        ... )
        >>> verdicts
        Verdicts: 2 images, 1 OOD
          0  ID   cat  probability 0.90  score 0.1  percentile 40.0  p-value 0.61
          1  OOD  dog  probability 0.50  score 2.5  percentile 100.0  p-value 0.01
        >>> verdicts[1].class_name, verdicts[1].is_ood
        ('dog', True)
        >>> len(verdicts[:1])
        1
    """

    label: Tensor
    probability: Tensor
    score: Tensor
    percentile: Tensor
    p_value: Tensor
    is_ood: Tensor
    stage: Tensor
    class_names: tuple[str, ...]

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[ScoreRow],
        calibration: Calibration,
        name: str,
        accept: float,
        *,
        class_names: Sequence[str],
        fdr: float | None = None,
    ) -> Verdicts:
        """Judge scored images.

        Args:
            rows: Their rows of the score table.
            calibration: The detector's calibration.
            name: The score that decides.
            accept: Share of ID images to accept, in (0, 1).
            class_names: Names of the classifier's classes.
            fdr: If given, images are flagged at this false discovery rate in (0, 1) instead.

        Raises:
            UserError: For an unknown score, or a share that is not in (0, 1) or needs more images.
        """
        scores = [row.scores[name] for row in rows]
        judgment = calibration.judge(name, scores, accept=accept, fdr=fdr)
        return cls(
            label=torch.tensor([row.prediction for row in rows], dtype=torch.int64),
            probability=torch.tensor([row.probability for row in rows], dtype=torch.float64),
            score=torch.tensor(scores, dtype=torch.float64),
            percentile=torch.from_numpy(judgment.percentile),
            p_value=torch.from_numpy(judgment.p_value),
            is_ood=torch.from_numpy(judgment.is_ood),
            stage=torch.tensor([row.stage for row in rows], dtype=torch.int64),
            class_names=tuple(class_names),
        )

    @property
    def class_name(self) -> list[str]:
        """The name of each predicted class."""
        return [self.class_names[label] for label in self.label.tolist()]

    def to_dict(self) -> dict[str, list[Any]]:
        """A list of plain JSON values per attribute of `Verdict`, as for a data frame."""
        return {
            "label": self.label.tolist(),
            "class_name": self.class_name,
            "probability": self.probability.tolist(),
            "score": self.score.tolist(),
            "percentile": self.percentile.tolist(),
            "p_value": self.p_value.tolist(),
            "is_ood": self.is_ood.tolist(),
            "stage": self.stage.tolist(),
        }

    def to(self, device: torch.device | str) -> Verdicts:
        """The verdicts with all tensors on a device; Lightning moves predictions by this."""
        values: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Verdicts(**values)

    def __len__(self) -> int:
        return len(self.label)

    @overload
    def __getitem__(self, place: int) -> Verdict: ...
    @overload
    def __getitem__(self, place: slice) -> Verdicts: ...
    def __getitem__(self, place: int | slice) -> Verdict | Verdicts:
        if isinstance(place, slice):
            return Verdicts(
                self.label[place],
                self.probability[place],
                self.score[place],
                self.percentile[place],
                self.p_value[place],
                self.is_ood[place],
                self.stage[place],
                self.class_names,
            )
        row = range(len(self))[operator.index(place)]
        return next(iter(self[row : row + 1]))

    def __iter__(self) -> Iterator[Verdict]:
        columns = self.to_dict()
        for values in zip(*columns.values(), strict=True):
            yield Verdict(**dict(zip(columns, values, strict=True)))

    def __repr__(self) -> str:
        lines = [f"Verdicts: {len(self)} images, {int(self.is_ood.sum())} OOD"]
        lines += [f"  {place}  {verdict}" for place, verdict in enumerate(self[:_SHOWN])]
        if len(self) > _SHOWN:
            lines.append(f"  … {len(self) - _SHOWN} more")
        return "\n".join(lines)
