"""An image while its trajectories run."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from diffguard.engine.jobs import Source
from diffguard.engine.observer import Observer
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Program
from diffguard.engine.routes import Node, Route


@dataclass
class ImageInFlight:
    """An image while its trajectories run.

    Attributes:
        source: The image.
        route: Its phases.
        passes: Network passes so far.
        running: Number of its trajectories that have not ended.
        last_step: Index of the last step of each phase that has ended.
        states: Last state of each phase that has ended.
        values: What the observers of a phase counted.
    """

    source: Source
    route: Route
    passes: int = 0
    running: int = 0
    last_step: dict[Node, int] = field(default_factory=dict)
    states: dict[Node, Tensor] = field(default_factory=dict)
    values: dict[tuple[Node, Observer], Tensor] = field(default_factory=dict)

    def outcome(self, program: Program) -> Outcome:
        """What the program asked for, without pictures, when all trajectories have ended."""
        nodes = self.route.nodes
        return Outcome(
            job=self.source.job,
            passes=self.passes,
            last_step={phase: self.last_step[node] for phase, node in nodes.items()},
            states={phase: self.states[nodes[phase]] for phase in program.states},
            pictures={},
            values={
                (phase, observer): self.values[node, observer]
                for phase, node in nodes.items()
                for observer in node.observers
                if observer.values
            },
        )
