"""Hyper-parameters check themselves."""

import pytest

from diffguard.errors import UserError
from diffguard.training.settings import ClassifierTraining, DiffusionTraining


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("weight_decay", -1.0),
        ("optimizer", "adam"),
        ("schedule", "step"),
        ("warmup", 1.0),
        ("label_smoothing", 1.0),
        ("norm_bias_lr_factor", 0.5),
        ("batch_mix", "cutout"),
    ],
)
def test_values_of_a_classifier_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=rf"classifier\.{name} must be .*, got {value!r}"):
        ClassifierTraining(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ema_decay", 1.0),
        ("label_dropout", -0.1),
        ("loss_weighting", "p2"),
        ("min_snr_gamma", 0.0),
        ("betas", (0.9, 1.0)),
    ],
)
def test_values_of_a_diffusion_model_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=rf"diffusion\.{name} must be "):
        DiffusionTraining(**{name: value})
