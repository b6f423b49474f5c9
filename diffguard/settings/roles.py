"""What a change of a detector's setting entails."""

from __future__ import annotations

# Settings that decide on new images and change no score.
DECIDING = ("decision", "accept")
# Settings that choose among the columns of a score table, or combine them.
COMBINING = (
    "methods",
    "distances",
    "unguided",
    "distance",
    "combine",
    "tandem_band",
    "baselines",
    "fused",
    "comparator",
    "fusion",
)
