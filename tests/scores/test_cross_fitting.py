"""Scores of ID validation images that a baseline is fitted to."""

import numpy as np
import torch

from diffguard.scores.conformal import threshold
from diffguard.scores.cross_fitting import cross_fitted
from diffguard.scores.logit_baselines import PosteriorDivergence, fit_klm


def gaussian_logits(generator, count, classes):
    labels = torch.randint(classes, (count,), generator=generator)
    logits = 2 * torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 5
    return logits, labels


def test_klm_accepts_the_requested_share_of_new_id_images():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(10):
        logits, labels = gaussian_logits(generator, 100, 10)
        new, _ = gaussian_logits(generator, 2000, 10)
        limit = threshold(cross_fitted(logits, labels, fit_klm, PosteriorDivergence), 0.95)
        accepted = PosteriorDivergence(fit_klm(logits, labels))(new) <= limit
        shares.append(accepted.double().mean().item())
    # With scores of the images by their own class means, the share is 0.81.
    assert np.mean(shares) >= 0.95 - 2 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) < 0.98


def test_no_image_is_scored_by_a_fit_to_itself():
    logits, labels = torch.arange(60.0)[:, None], torch.arange(60)

    def fit(rows, numbers):
        assert rows[:, 0].tolist() == numbers.tolist()
        return {"rows": rows}

    scores = cross_fitted(
        logits, labels, fit, lambda f: lambda rows: torch.isin(rows, f["rows"])[:, 0]
    )
    assert scores.tolist() == [0] * 60


def test_folds_do_not_hold_whole_classes_of_images_in_a_regular_order():
    labels = torch.arange(200) % 50
    logits = 20 * torch.eye(50)[labels]
    scores = cross_fitted(logits, labels, fit_klm, PosteriorDivergence)
    assert (scores < 1).double().mean() > 0.9
