"""Results of several seeds: AUROC as mean ± standard deviation, and tests of DiffGuard's gain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import ttest_rel
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.report.tables import markdown_row
from diffguard.scores.fusion_rule import FUSION_BASELINES
from diffguard.storage.files import replace_file
from diffguard.storage.json_files import read_json
from diffguard.storage.paths import require_file

AUROCs = Mapping[tuple[str, str], float]  # of a score on a set or group
# Both are compared with `fusion_baselines`, the baselines of `detector.comparator` combined.
_TESTED, _GROUPS = ("diffguard", "fusion"), ("near", "far")


class _Row(TypedDict):
    score: str
    dataset: str
    auroc: float


class _Results(TypedDict):
    rows: list[_Row]


@dataclass(frozen=True)
class PairedTest:
    """A test of whether two scores have the same AUROC, over the seeds.

    Attributes:
        score: The tested score.
        against: The score that it is compared with.
        group: `near` or `far`, the mean over the OOD sets of a group.
        differences: AUROC of the first minus that of the second, in [-1, 1], one per seed.
        p_value: Two-sided p-value of the paired t-test; 1 if all differences are 0.
        holm: The same after Holm's correction for the number of tests.
    """

    score: str
    against: str
    group: str
    differences: tuple[float, ...]
    p_value: float
    holm: float


def read_seeds(folders: Sequence[Path]) -> list[AUROCs]:
    """Read the AUROC of evaluations that differ in their seed only.

    Args:
        folders: Evaluation folders, two or more.

    Raises:
        UserError: If there is only one or one is named twice, a `results.json` is missing or
            damaged, or the evaluations differ in their scores or sets.
    """
    if len(folders) < 2:
        raise UserError("--over_seeds compares several seeds: name two evaluation folders or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("--over_seeds got a folder twice: name each evaluation folder once")
    seeds: list[AUROCs] = []
    for folder in folders:
        results = read_json(require_file(folder / "results.json", "results"), _Results)
        seeds.append({(row["score"], row["dataset"]): row["auroc"] for row in results["rows"]})
        if seeds[-1].keys() != seeds[0].keys():
            raise UserError(
                f"{folder} and {folders[0]} differ in their scores or sets: evaluate them alike"
            )
    return seeds


def paired_tests(seeds: Sequence[AUROCs]) -> list[PairedTest]:
    """Compare `diffguard` and `fusion` with `fusion_baselines` on near-OOD and far-OOD.

    It is the best comparison without DiffGuard only if its baselines were chosen on validation sets
    (`diffguard tune`). By default they are those in `fusion`.

    Args:
        seeds: The AUROC of two seeds or more; pairs that they do not contain are left out.
    """
    pairs, p_values = [], []
    for group in _GROUPS:
        for score in _TESTED:
            keys = [(score, group), (FUSION_BASELINES, group)]
            if all(key in seeds[0] for key in keys):
                first, second = ([seed[key] for seed in seeds] for key in keys)
                pairs.append((score, group, [a - b for a, b in zip(first, second, strict=True)]))
                p_values.append(1.0 if first == second else float(ttest_rel(first, second).pvalue))
    return [
        PairedTest(score, FUSION_BASELINES, group, tuple(differences), p_value, adjusted)
        for (score, group, differences), p_value, adjusted in zip(
            pairs, p_values, holm(p_values), strict=True
        )
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's step-down correction (1979), in the given order."""
    count, largest = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, place in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def to_markdown(seeds: Sequence[AUROCs]) -> str:
    """Two tables: the AUROC of each score, and the paired tests."""
    scores, sets = ([*dict.fromkeys(key[place] for key in seeds[0])] for place in (0, 1))
    lines = [f"AUROC in %, mean ± standard deviation over {len(seeds)} seeds", ""]
    lines += _header(["score", *sets])
    for score in scores:
        values = [[seed[score, name] for seed in seeds] for name in sets]
        lines.append(markdown_row([score, *map(_spread, values)]))
    lines += ["", "Paired t-tests over the seeds", ""]
    lines += _header(["gain", "mean", "p-value", "p-value after Holm's correction"])
    for test in paired_tests(seeds):
        name = f"{test.score} − {test.against}, {test.group}"
        gain = _spread(test.differences, sign="+")
        lines.append(markdown_row([name, gain, f"{test.p_value:.3g}", f"{test.holm:.3g}"]))
    return "\n".join(lines) + "\n"


def write_seeds(folder: Path, seeds: Sequence[AUROCs]) -> None:
    """Write `seeds.md`, the tables, and `seeds.json`, the AUROC of each seed and the tests.

    Raises:
        UserError: If the files cannot be written.
    """
    rows = [
        {"score": score, "dataset": name, "auroc": [seed[score, name] for seed in seeds]}
        for score, name in seeds[0]
    ]
    content = {"rows": rows, "tests": [asdict(test) for test in paired_tests(seeds)]}
    for name, text in {
        "seeds.md": to_markdown(seeds),
        "seeds.json": json.dumps(content, indent=2, allow_nan=False) + "\n",
    }.items():
        with replace_file(folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="")


def _spread(values: Sequence[float], sign: str = "") -> str:
    return f"{100 * mean(values):{sign}.1f} ± {100 * stdev(values):.1f}"


def _header(cells: Sequence[str]) -> list[str]:
    return [markdown_row(cells), markdown_row(["---"] * len(cells))]
