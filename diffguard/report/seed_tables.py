"""Tables of several seeds, for readers and programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from diffguard.report.markdown import markdown_row
from diffguard.report.seeds import PairedTest, Seed, Values, opponents_of, paired_tests
from diffguard.storage.files import replace_file


def to_markdown(seeds: Sequence[Seed]) -> str:
    """AUROC and FPR@95 of each score, and the paired tests with the gain of each seed.

    The gain of a seed has its 95% bootstrap interval, if its evaluation made the comparison.

    Args:
        seeds: Two seeds or more, see `seeds.read_seeds`.
    """
    lines = [f"AUROC in %, mean ± standard deviation over {len(seeds)} seeds", ""]
    lines += _table([seed.auroc for seed in seeds])
    lines += ["", "FPR@95 in %, the share of OOD images accepted when 95% of ID images are", ""]
    lines += _table([seed.fpr95 for seed in seeds])
    lines += ["", f"Accuracy on ID test images: {_spread([seed.accuracy for seed in seeds])} %"]
    opponents = opponents_of(seeds)
    if opponents is not None:
        lines.append(f"Best baseline: {opponents.describe()}")
    tests = paired_tests(seeds)
    if not tests:
        return "\n".join(lines) + "\n"
    lines += ["", "Gain in AUROC, and paired t-tests over the seeds", ""]
    numbers = [f"seed {number}" for number in range(1, len(seeds) + 1)]
    lines += _header(["gain", "mean", "p-value", "after Holm's correction", *numbers])
    return "\n".join([*lines, *map(_test_row, tests)]) + "\n"


def write_seeds(folder: Path, seeds: Sequence[Seed]) -> None:
    """Write `seeds.md`, the tables, and `seeds.json`, the values of each seed and the tests.

    Raises:
        UserError: If the files cannot be written.
    """
    rows = [
        {
            "score": score,
            "dataset": name,
            "auroc": [seed.auroc[score, name] for seed in seeds],
            "fpr95_id_positive": [seed.fpr95[score, name] for seed in seeds],
        }
        for score, name in seeds[0].auroc
    ]
    opponents = opponents_of(seeds)
    content = {
        "rows": rows,
        "accuracy": [seed.accuracy for seed in seeds],
        "baselines": None if opponents is None else opponents.as_plain(),
        "tests": [asdict(test) for test in paired_tests(seeds)],
    }
    for name, text in {
        "seeds.md": to_markdown(seeds),
        "seeds.json": json.dumps(content, indent=2, allow_nan=False) + "\n",
    }.items():
        with replace_file(folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="")


def _table(seeds: Sequence[Values]) -> list[str]:
    """A row per score with the values of all sets and groups."""
    scores, sets = ([*dict.fromkeys(key[place] for key in seeds[0])] for place in (0, 1))
    lines = _header(["score", *sets])
    for score in scores:
        values = [[seed[score, name] for seed in seeds] for name in sets]
        lines.append(markdown_row([score, *map(_spread, values)]))
    return lines


def _test_row(test: PairedTest) -> str:
    name = f"{test.score} − {test.against}, {test.group}"
    gain = _spread(test.differences, sign="+")
    gains = [*map(_gain, test.differences, test.intervals)]
    return markdown_row([name, gain, f"{test.p_value:.3g}", f"{test.holm:.3g}", *gains])


def _gain(difference: float, interval: tuple[float, float] | None) -> str:
    text = f"{100 * difference:+.1f}"
    if interval is None:
        return text
    low, high = (f"{100 * end:+.1f}" for end in interval)
    return f"{text} ({low} to {high})"


def _spread(values: Sequence[float], sign: str = "") -> str:
    return f"{100 * mean(values):{sign}.1f} ± {100 * stdev(values):.1f}"


def _header(cells: Sequence[str]) -> list[str]:
    return [markdown_row(cells), markdown_row(["---"] * len(cells))]
