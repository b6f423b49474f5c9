"""Choice of the images that are shown: typical ones of each set, and the hardest mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffguard.score_table.table import ScoreTable


@dataclass(frozen=True)
class Cases:
    """Images that are shown together.

    Attributes:
        name: Name of the figure.
        title: What the images have in common.
        rows: `(n,)` their rows in the score table, in the order in which they are shown.
    """

    name: str
    title: str
    rows: NDArray[np.intp]


def choose_cases(
    table: ScoreTable,
    groups: Mapping[str, str],
    score: str,
    threshold: float | None,
    count: int,
) -> list[Cases]:
    """Choose typical images of each set, and the mistakes that are furthest from the threshold.

    Args:
        table: The score table.
        groups: Set name -> `id`, `near` or `far`.
        score: The score that judges the images, higher = more OOD.
        threshold: The score above which an image is OOD; without one, the mistakes are the ID
            images of the highest and the OOD images of the lowest score.
        count: Images per choice; 0 chooses none.

    Returns:
        The non-empty choices: the mistakes `mistakes_id_flagged` and `mistakes_ood_accepted`, the
        worst first, then `typical_<set>`, at evenly spaced ranks of the score, in ascending order.
    """
    if not count:
        return []
    values = table.scores[score]
    rows = {name: table.rows(name) for name in groups}
    ident = np.concatenate([rows[name] for name in groups if groups[name] == "id"])
    ood = np.concatenate([rows[name] for name in groups if groups[name] != "id"])
    above = below = ""
    if threshold is not None:
        above, below = f": flagged above {threshold:.3g}", f": accepted up to {threshold:.3g}"
        ident, ood = ident[values[ident] > threshold], ood[values[ood] <= threshold]
    # A stable sort keeps images of equal score in the order of the table.
    flagged = ident[np.argsort(-values[ident], kind="stable")][:count]
    accepted = ood[np.argsort(values[ood], kind="stable")][:count]
    cases = [
        Cases("mistakes_id_flagged", f"ID images of the highest {score}{above}", flagged),
        Cases("mistakes_ood_accepted", f"OOD images of the lowest {score}{below}", accepted),
        *(
            Cases(f"typical_{name}", f"{name}, from the lowest to the highest {score}", spread)
            for name, part in rows.items()
            for spread in [spaced(part[np.argsort(values[part], kind="stable")], count)]
        ),
    ]
    return [case for case in cases if len(case.rows)]


def spaced(rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """At most `count` rows at even distances, the first and the last included."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    return rows[places.round().astype(int)]
