"""Mean accepted share of new ID images in simulations, by the number of ID validation images.

    python benchmarks/accepted_share.py

simulates `fusion` of two distances and a baseline, Gaussian scores with pairwise correlations of
0.5, and `klm` with Gaussian logits of 10 classes. Each trial draws validation images and new ID
images, and counts the new images at or below the threshold for 95%. `cross-fitted` is the
threshold of the program; `fitted to itself` compares with validation scores to which the image
itself contributed. A fixed score, whose mean accepted share is known exactly, reduces the noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.scores.calibration import Calibration
from diffguard.scores.conformal import threshold, threshold_rank
from diffguard.scores.cross_fitting import cross_fitted
from diffguard.scores.fusion_rule import FUSION, FusionRule
from diffguard.scores.logit_baselines import PosteriorDivergence, fit_klm

_ACCEPT, _CORRELATION, _CLASSES, _NEW = 0.95, 0.5, 10, 2000
_NAMES = ("diffguard/a", "diffguard/b", "vim")
Shares = NDArray[np.float64]


def accepted(validation: torch.Tensor, new: torch.Tensor) -> float:
    """Share of new scores at or below the threshold of the validation scores."""
    return float((new <= threshold(validation.numpy(), _ACCEPT)).double().mean())


def fusion_shares(rng: np.random.Generator, count: int) -> tuple[float, float, float]:
    """Accepted shares of one trial: cross-fitted, fitted to itself, and of a fixed score."""
    images = count + _NEW
    common = rng.normal(size=images)
    scores = {
        name: np.sqrt(_CORRELATION) * common + np.sqrt(1 - _CORRELATION) * rng.normal(size=images)
        for name in _NAMES
    }
    validation = {name: torch.from_numpy(values[:count]) for name, values in scores.items()}
    calibration = Calibration.fit(validation, FusionRule(["a", "b"], ["vim"], ["vim"]))
    new = torch.from_numpy(calibration.derive({n: v[count:] for n, v in scores.items()})[FUSION])
    fixed = torch.from_numpy(sum(np.maximum(v, -1) for v in scores.values()))
    return (
        accepted(calibration.reference(FUSION), new),
        accepted(calibration.scores[FUSION], new),
        accepted(fixed[:count], fixed[count:]),
    )


def klm_shares(rng: np.random.Generator, count: int) -> tuple[float, float, float]:
    """Accepted shares of one trial; see `fusion_shares`."""
    labels = torch.from_numpy(rng.integers(_CLASSES, size=count + _NEW))
    logits = torch.from_numpy(2 * rng.normal(size=(count + _NEW, _CLASSES)))
    logits[torch.arange(len(labels)), labels] += 5
    validation, new = logits[:count], logits[count:]
    klm = PosteriorDivergence(fit_klm(validation, labels[:count]))
    folds = cross_fitted(validation, labels[:count], fit_klm, PosteriorDivergence)
    fixed = -logits.softmax(1).amax(1)
    scores = klm(new)
    return (
        accepted(folds, scores),
        accepted(klm(validation), scores),
        accepted(fixed[:count], fixed[count:]),
    )


def estimate(shares: Shares, fixed: Shares, count: int) -> str:
    """Mean of shares `(T,)` of T trials and its standard error, in %, by a fixed score's shares."""
    slope = np.cov(shares, fixed)[0, 1] / fixed.var(ddof=1)
    exact = threshold_rank(count, _ACCEPT) / (count + 1)
    values = 100 * (shares - slope * (fixed - exact))
    return f"{values.mean():.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[20, 50, 100, 400])
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[np.random.Generator, int], tuple[float, float, float]]] = {
        "fusion": fusion_shares,
        "klm": klm_shares,
    }
    print("| score | validation scores |", *(f"n = {n} |" for n in options.images))
    print("| --- | --- |", *("---: |" for _ in options.images))
    for name, simulate in kinds.items():
        columns = []
        for count in options.images:
            rng = np.random.default_rng(count)
            trials = np.array([simulate(rng, count) for _ in range(options.trials)])
            columns.append([estimate(trials[:, k], trials[:, 2], count) for k in (0, 1)])
        for kind, cells in zip(
            ("cross-fitted", "fitted to itself"), zip(*columns, strict=True), strict=True
        ):
            print(f"| {name} | {kind} |", *(f"{cell} |" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
