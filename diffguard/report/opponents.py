"""The baselines that DiffGuard is compared with: the best one on validation, or all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import Field
from typing_extensions import TypedDict

from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES

TESTED = (DIFFGUARD, FUSION)


class PlainOpponents(TypedDict):
    """`baselines` in `run.json` and `results.json`; see `Opponents`."""

    names: list[str]
    best: str | None
    auroc: dict[str, Annotated[float, Field(ge=0, le=1)]]
    sets: list[str]
    reason: str


@dataclass(frozen=True)
class Opponents:
    """The baselines of a run, and how well they did on its OOD validation sets.

    Attributes:
        names: The baselines.
        auroc: Baseline -> AUROC against each OOD validation set, averaged, in [0, 1]; empty if
            there is no such set.
        sets: The OOD validation sets.
        reason: Why there is none.
    """

    names: tuple[str, ...]
    auroc: Mapping[str, float] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    reason: str = ""

    @property
    def best(self) -> str | None:
        """The baseline with the highest AUROC on validation; None without validation sets."""
        names = [name for name in self.names if name in self.auroc]
        return max(names, key=self.auroc.__getitem__) if names else None

    def pairs(self, scores: Collection[str]) -> list[tuple[str, str]]:
        """The comparisons (score, against) among existing scores.

        `diffguard` and `fusion` are compared with the best baseline. Without a choice they are
        compared with every baseline, because a choice on test sets would favor the baseline.
        """
        against = self.names if self.best is None else (self.best,)
        pairs = [(score, name) for score in TESTED for name in against]
        return [pair for pair in pairs if set(pair) <= set(scores)]

    def describe(self) -> str:
        """How the baseline was chosen, without the last period."""
        if self.best is None:
            return (
                f"not chosen, because {self.reason}. Every baseline is compared, and the short "
                "table has none. To choose one, provide OOD validation sets (data.ood_validation)"
            )
        value = f"{100 * self.auroc[self.best]:.2f}"
        return f"{self.best}, by its AUROC of {value} on OOD validation ({', '.join(self.sets)})"

    @classmethod
    def from_plain(cls, plain: PlainOpponents) -> Self:
        """The opponents that `as_plain` wrote."""
        return cls(tuple(plain["names"]), plain["auroc"], tuple(plain["sets"]), plain["reason"])

    def as_plain(self) -> PlainOpponents:
        """Plain values for `run.json` and `results.json`."""
        return {
            "names": list(self.names),
            "best": self.best,
            "auroc": dict(self.auroc),
            "sets": list(self.sets),
            "reason": self.reason,
        }


def mean_opponents(runs: Sequence[Opponents]) -> Opponents:
    """The opponents of several seeds, with their mean AUROC; without it if a seed lacks it."""
    first = runs[0]
    if any(run.auroc.keys() != first.auroc.keys() or run.sets != first.sets for run in runs):
        return Opponents(first.names, reason="the runs have different OOD validation sets")
    auroc = {name: sum(run.auroc[name] for run in runs) / len(runs) for name in first.auroc}
    return Opponents(first.names, auroc, first.sets, first.reason)


def comparisons(scores: Collection[str], opponents: Opponents | None) -> list[tuple[str, str]]:
    """The pairs (score, against) that a run compares.

    Args:
        scores: The scores that exist.
        opponents: The baselines of the run; None if it does not record them.
    """
    pair = (FUSION, FUSION_BASELINES)
    pairs = [pair] if set(pair) <= set(scores) else []
    return [*pairs, *(opponents.pairs(scores) if opponents else ())]
