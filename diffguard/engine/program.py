"""What the engine computes for an image: phases of steps from the image, noise or other phases.

A method defines a `Program`. DiffGuard's is an inversion, and two syntheses that start at its end.
Phases are equal by value, so that methods with the same phase share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from diffguard.diffusion.schedule import EXTRA_START
from diffguard.engine.observer import Observer


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho & Salimans, 2022).

    Attributes:
        scale: Guidance scale; 0 is unguided, 1 is the noise with label alone.
        masked: Guide only inside the image's mask, if it has one.
    """

    scale: float
    masked: bool = True


class Viewer(Protocol):
    """A diffusion model that shows its states as images."""

    def preview(self, z: Tensor, /) -> Tensor:
        """See `Denoiser.preview`."""
        ...


class GradientGuidance(Protocol):
    """Guidance by a gradient, such as `ClassifierGuidance`.

    Attributes:
        scale: Guidance scale; 0 is unguided.
    """

    scale: float

    @property
    def draws_crops(self) -> bool:
        """Whether it draws random crops that depend on the image."""
        ...

    def gradient(
        self,
        denoiser: Viewer,
        x: Tensor,
        noise: Tensor,
        t: Tensor,
        alpha: Tensor,
        *,
        labels: Tensor,
        keys: Sequence[tuple[str, ...]],
        steps: Sequence[int],
        batch_size: int,
    ) -> Tensor:
        """The guidance gradient `(N, …)` of states; see `ClassifierGuidance.gradient`."""
        ...


T = TypeVar("T")
Guidance = ClassifierFree | GradientGuidance | None


@dataclass(frozen=True)
class Inversion:
    """Steps from the image toward noise.

    Attributes:
        steps: Most steps, at least 1.
        guidance: How the steps are guided toward the label; None for no label.
        observers: May end the phase earlier or change its states.
    """

    steps: int
    guidance: Guidance = None
    observers: tuple[Observer, ...] = ()


@dataclass(frozen=True)
class NoisedImage:
    r"""The image with noise, $\sqrt{\bar\alpha}\,x_0 + \sqrt{1-\bar\alpha}\,\epsilon$.

    Attributes:
        step: Index of the synthesis step that starts at its noise level.
        repeat: Number of the draw.
        seed: The noise depends on the seed, the job's key, the repeat and the step.
        noise: Whether noise is `added` to the scaled image, stands `alone`, which shows nothing of
            the image, or is absent (`none`).
    """

    step: int
    repeat: int = 0
    seed: int = 0
    noise: Literal["added", "alone", "none"] = "added"


@dataclass(frozen=True)
class Synthesis:
    """Steps toward the image.

    Attributes:
        start: What it starts from.
        guidance: How the steps are guided toward the label; None for no label.
        last: Index of the last step; 0 ends at the image.
        extra_start: Steps above the level that an inversion reached at which it starts.
        skip: Start this many steps below the top; None starts where the inversion stopped.
        ends_clean: The last step goes to the clean estimate.
        observers: May end the phase earlier or change its states.
    """

    start: Inversion | NoisedImage | Synthesis
    guidance: Guidance = None
    last: int = 0
    extra_start: int = EXTRA_START
    skip: int | None = None
    ends_clean: bool = False
    observers: tuple[Observer, ...] = ()


Phase = Inversion | Synthesis


@dataclass(frozen=True)
class Program:
    """What the engine computes for each image.

    Attributes:
        states: Phases whose last state is returned.
        pictures: Phases whose last state is returned as a decoded image.
        watched: Pairs of a phase and an observer that only watches it.
    """

    states: tuple[Phase, ...] = ()
    pictures: tuple[Phase, ...] = ()
    watched: tuple[tuple[Phase, Observer], ...] = ()

    @classmethod
    def joined(cls, programs: Iterable[Program]) -> Program:
        """One program for several methods; what they have in common is made once."""
        parts = list(programs)
        return cls(
            states=_distinct(phase for part in parts for phase in part.states),
            pictures=_distinct(phase for part in parts for phase in part.pictures),
            watched=_distinct(pair for part in parts for pair in part.watched),
        )

    @property
    def draws_noise(self) -> bool:
        """Whether noise is drawn for each image, by the key of its job."""
        starts = [phase.start for phase in self.phases if isinstance(phase, Synthesis)]
        return any(isinstance(start, NoisedImage) and start.noise != "none" for start in starts)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases that are needed, each behind the one it starts from."""
        ends = [*self.states, *self.pictures, *(phase for phase, _ in self.watched)]
        return _distinct(phase for last in ends for phase in _lineage(last))


def _distinct(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


def _lineage(phase: Phase) -> Iterator[Phase]:
    """The phases that lead to a phase, and the phase itself."""
    if isinstance(phase, Synthesis) and not isinstance(phase.start, NoisedImage):
        yield from _lineage(phase.start)
    yield phase


def shortened(phase: Phase, steps: int) -> Phase:
    """A phase whose parts each make at most `steps` steps; for measurements of speed."""
    if isinstance(phase, Inversion):
        return replace(phase, steps=min(phase.steps, steps))
    if isinstance(phase.start, NoisedImage):
        step = min(phase.start.step, phase.last + steps - 1)
        return replace(phase, start=replace(phase.start, step=step))
    return replace(phase, start=shortened(phase.start, steps), skip=None)
