"""The denoising loss and its weights."""

import pytest
import torch
from torch.nn import functional as F

from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.training.denoising import denoising_losses, loss_weights
from diffguard.training.settings import DiffusionTraining
from lightning_modules.diffusion import DiffusionModule
from tests.helpers import tiny_training as tiny


def test_training_loss_is_the_weighted_error_of_the_mean_half():
    # Twice the output channels: the second half is a variance, which is not trained.
    module = DiffusionModule(
        tiny.denoiser(out_channels=2), DiffusionTraining(loss_weighting="min_snr")
    ).eval()
    z, noise = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    t, labels = torch.tensor([3, 800]), torch.tensor([0, 3])
    loss = denoising_losses(module.denoiser, z, noise, t, labels, module.weights).mean()
    expected = []
    for i in range(2):
        alpha = float(module.denoiser.schedule.alphas_cumprod[t[i]])
        x = alpha**0.5 * z[i : i + 1] + (1 - alpha) ** 0.5 * noise[i : i + 1]
        output = module.denoiser.network(x, t[i], class_labels=labels[i : i + 1]).sample[:, :1]
        snr = alpha / (1 - alpha)
        expected.append(min(snr, 5.0) / snr * F.mse_loss(output, noise[i : i + 1]))
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_counts_the_error_of_the_clean_image(prediction):
    # For every prediction type, the same error of x_0 must count min(SNR, γ) times.
    schedule = NoiseSchedule.linear(prediction_type=prediction)
    weights = loss_weights(schedule, "min_snr", 5.0).double()
    alpha = schedule.alphas_cumprod
    x0, error = torch.zeros(1000, dtype=torch.float64), 0.1
    noise = torch.ones_like(x0)
    x_t = (1 - alpha).sqrt() * noise
    wrong_noise = (x_t - alpha.sqrt() * (x0 + error)) / (1 - alpha).sqrt()
    t = torch.arange(1000)
    target = schedule.training_target(x0, noise, t)
    wrong = schedule.training_target(x0 + error, wrong_noise, t)
    weighted = weights * (wrong - target) ** 2 / error**2
    torch.testing.assert_close(weighted, (alpha / (1 - alpha)).clamp(max=5.0), rtol=1e-4, atol=1e-6)


def test_no_weighting_means_ones():
    assert torch.equal(loss_weights(NoiseSchedule.cosine(), "none", 5.0), torch.ones(1000))
