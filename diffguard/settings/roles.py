"""What a change of a detector's setting entails."""

from __future__ import annotations

# Settings that decide on new images and change no score.
DECIDING = ("decision", "accept")
# Settings that accelerate the networks and change a score only by rounding errors.
ACCELERATING = ("compile", "channels_last")
# Settings that combine the scores of an image, which can be done again at any time.
DERIVING = ("distance", "combine", "tandem_band", "fused", "comparator", "fusion")
# Settings that choose among the columns of a score table, or combine them.
COMBINING = ("methods", "distances", "unguided", "baselines", *DERIVING)
