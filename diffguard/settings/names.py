"""The check of the distances that a detector's settings name."""

from __future__ import annotations

from collections.abc import Sequence

from diffguard.errors import UserError
from diffguard.scores.distance_names import find_distance


def check_distances(
    distances: Sequence[str], unguided: Sequence[str], combined: Sequence[str]
) -> None:
    """Check DiffGuard's distances.

    Args:
        distances: Those to the guided reconstruction.
        unguided: Those between the two reconstructions.
        combined: Those that `diffguard` combines.

    Raises:
        UserError: If a distance is unknown, none is named, or one is combined but not computed.
    """
    for name in (*distances, *unguided, *combined):
        find_distance(name.removeprefix("unguided/"))
    names = [*distances, *(f"unguided/{name}" for name in unguided)]
    absent = [name for name in combined if name not in names]
    if not names:
        raise UserError("detector.distances and detector.unguided name no distance: name one")
    if absent or not combined:
        raise UserError(
            f"detector.distance names {', '.join(absent) or 'nothing'}, which is not computed: "
            f"expected some of {', '.join(names)} (see detector.distances and detector.unguided)"
        )
