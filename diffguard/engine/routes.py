"""The phases that an image goes through, numbered, with their properties as columns.

An image without label, or with an empty mask, is not guided. Phases that this leaves equal are made
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from diffguard.diffusion.plan import SamplingPlan
from diffguard.engine.jobs import Reach
from diffguard.engine.observer import Observer
from diffguard.engine.program import (
    ClassifierFree,
    GradientGuidance,
    Guidance,
    Inversion,
    NoisedImage,
    Phase,
    Program,
    Synthesis,
    shortened,
)


def effective(guidance: Guidance, reach: Reach) -> Guidance:
    """What remains of guidance in an image."""
    if guidance is None or guidance.scale == 0 or reach is Reach.NO_LABEL:
        return None
    if not isinstance(guidance, ClassifierFree):
        return None if reach is Reach.NOWHERE else guidance
    if not guidance.masked or reach is Reach.INSIDE:
        return guidance
    return None if reach is Reach.NOWHERE else replace(guidance, masked=False)


@dataclass(eq=False)
class Node:
    """A phase of an image.

    Attributes:
        number: Its place in the columns of `Routes`.
        phase: The phase, with the guidance that is effective.
        children: The phases that start where it ends.
        observers: All its observers.
        is_kept: Whether its last state is part of the outcome.
    """

    number: int
    phase: Phase
    children: list[Node] = field(default_factory=list)
    observers: list[Observer] = field(default_factory=list)
    is_kept: bool = False

    @property
    def height(self) -> int:
        """Phases on the longest way from here to an end, without this one."""
        return max((1 + child.height for child in self.children), default=0)


@dataclass
class Route:
    """The phases of images of one reach.

    Attributes:
        roots: Those that start at the image.
        nodes: Phase of the program -> what is made of it.
    """

    roots: list[Node] = field(default_factory=list)
    nodes: dict[Phase, Node] = field(default_factory=dict)
    _phases: dict[tuple[int, ...], frozenset[Phase]] = field(default_factory=dict, repr=False)

    def phases(self, numbers: tuple[int, ...]) -> frozenset[Phase]:
        """The phases of the program that nodes are made of."""
        if numbers not in self._phases:
            phases = (phase for phase, node in self.nodes.items() if node.number in numbers)
            self._phases[numbers] = frozenset(phases)
        return self._phases[numbers]


class Routes:
    """The routes of a program's images, and the properties of all nodes, by their numbers.

    Args:
        program: The program.
        plan: Timesteps and levels.
        most_steps: If given, shorten each part to this many steps.

    Attributes:
        nodes: All nodes.
        observers: All observers.
        mixes: All forms of classifier-free guidance.
        classifiers: All forms of classifier guidance.
        up: `(K,)` bool, whether the phase is an inversion.
        last: `(K,)` index of its last step, unless an observer ends it before.
        steps_after: `(K,)` most steps of the phases after it.
        ends_clean: `(K,)` bool, whether its last step goes to the clean estimate.
        null: `(K,)` bool, whether a step needs the pass without the label.
        label: `(K,)` bool, whether a step needs the pass with the label.
        mix: `(K,)` place in `mixes`; -1 for none.
        classifier: `(K,)` place in `classifiers`; -1 for none.
        observes: `(observers, K)` bool, which observers it has.
        waits: `(K,)` bool, whether an observer sees its steps.
        sees_passes: Whether an observer sees passes.
    """

    def __init__(self, program: Program, plan: SamplingPlan, most_steps: int | None = None) -> None:
        self.program = program
        self.nodes: list[Node] = []
        self._most_steps = most_steps
        self._routes = {reach: self._route(reach) for reach in Reach}
        phases = [node.phase for node in self.nodes]
        free = [p.guidance if isinstance(p.guidance, ClassifierFree) else None for p in phases]
        self.mixes = list(dict.fromkeys(guidance for guidance in free if guidance is not None))
        self.observers = list(dict.fromkeys(o for node in self.nodes for o in node.observers))
        self.up = np.array([isinstance(phase, Inversion) for phase in phases])
        self.last = np.array([p.steps - 1 if isinstance(p, Inversion) else p.last for p in phases])
        self.steps_after = len(plan) * np.array([node.height for node in self.nodes])
        self.ends_clean = np.array([isinstance(p, Synthesis) and p.ends_clean for p in phases])
        # At scale 1 without a mask, guidance is the noise with the label alone.
        self.null = np.array([g is None or g.masked or g.scale != 1 for g in free])
        self.label = np.array([guidance is not None for guidance in free])
        self.mix = np.array([-1 if g is None else self.mixes.index(g) for g in free])
        by: list[GradientGuidance | None] = [
            None if isinstance(p.guidance, ClassifierFree) else p.guidance for p in phases
        ]
        self.classifiers = list(dict.fromkeys(guidance for guidance in by if guidance is not None))
        self.classifier = np.array([-1 if g is None else self.classifiers.index(g) for g in by])
        self.observes = np.array(
            [[o in node.observers for node in self.nodes] for o in self.observers], dtype=bool
        ).reshape(len(self.observers), len(phases))
        self.sees_passes = any(observer.sees_passes for observer in self.observers)
        self.waits = np.array([any(o.sees_steps for o in node.observers) for node in self.nodes])
        self._starts = [_starts(phase, plan) for phase in phases]

    def route(self, reach: Reach) -> Route:
        """The phases of images of a reach."""
        return self._routes[reach]

    def first_step(self, node: Node, stop: int) -> int:
        """Index of the first step of a phase that starts at the end of another.

        Args:
            node: The phase.
            stop: Index of the last step of the phase before it.
        """
        return self._starts[node.number][stop]

    def steps_left(self, nodes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Most steps that trajectories still make.

        Args:
            nodes: `(N,)` their phases.
            steps: `(N,)` the steps that they make next.
        """
        left = self.last[nodes] - steps
        return np.where(self.up[nodes], left, -left) + self.steps_after[nodes]

    @property
    def most_rows(self) -> int:
        """The largest number of trajectories of an image at a time."""
        return max(sum(_ends(root) for root in r.roots) for r in self._routes.values())

    def _route(self, reach: Reach) -> Route:
        route, nodes = Route(), dict[Phase, Node]()
        for phase in self.program.phases:
            actual = self._actual(phase, reach)
            if actual not in nodes:
                node = Node(len(self.nodes), actual, observers=list(actual.observers))
                self.nodes.append(node)
                nodes[actual] = node
                start = actual.start if isinstance(actual, Synthesis) else None
                before = nodes.get(start) if isinstance(start, Phase) else None
                (route.roots if before is None else before.children).append(node)
            route.nodes[phase] = nodes[actual]
        for phase, observer in self.program.watched:
            watching = route.nodes[phase].observers
            if observer not in watching:
                watching.append(observer)
        for phase in (*self.program.states, *self.program.pictures):
            route.nodes[phase].is_kept = True
        return route

    def _actual(self, phase: Phase, reach: Reach) -> Phase:
        if self._most_steps is not None:
            phase = shortened(phase, self._most_steps)
        return _with_effective_guidance(phase, reach)


def _with_effective_guidance(phase: Phase, reach: Reach) -> Phase:
    guidance = effective(phase.guidance, reach)
    if isinstance(phase, Inversion) or isinstance(phase.start, NoisedImage):
        return replace(phase, guidance=guidance)
    start = _with_effective_guidance(phase.start, reach)
    return replace(phase, guidance=guidance, start=start)


def _starts(phase: Phase, plan: SamplingPlan) -> list[int]:
    """The first step by the last step of the phase before."""
    stops = torch.arange(len(plan))
    if isinstance(phase, Inversion):
        return [0]
    if isinstance(phase.start, NoisedImage):
        return [phase.start.step]
    if isinstance(phase.start, Synthesis):
        return [max(0, stop - 1) for stop in stops.tolist()]
    return plan.start_index(stops, phase.extra_start, phase.skip).tolist()


def _ends(node: Node) -> int:
    return sum(map(_ends, node.children)) or 1
