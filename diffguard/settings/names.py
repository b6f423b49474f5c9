"""The checks of the scores that a detector's settings name and combine."""

from __future__ import annotations

from collections.abc import Sequence

from diffguard.errors import UserError
from diffguard.scores.distance_names import find_distance
from diffguard.settings.values import check_distinct


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


def check_fused(
    fused: Sequence[str], comparator: Sequence[str] | None, fusible: Sequence[str]
) -> None:
    """Check the scores that `fusion` and `fusion_baselines` combine.

    Args:
        fused: The scores that `fusion` combines with `diffguard`.
        comparator: The scores that `fusion_baselines` combines; defaults to `fused`.
        fusible: The scores that can be combined.

    Raises:
        UserError: For a name that is absent or given twice, and for a comparator without effect.
    """
    for key, names in {"fused": fused, "comparator": comparator or []}.items():
        check_distinct(names, f"detector.{key}")
        missing = [name for name in names if name not in fusible]
        if missing:
            raise UserError(
                f"detector.{key} names {missing[0]!r}, which detector.baselines and "
                "detector.methods lack"
            )
    if comparator is not None and not (comparator and fused):
        raise UserError(
            "detector.comparator holds the baselines to compare fusion with: name at least one "
            "there and one in detector.fused, or set detector.comparator to null"
        )
