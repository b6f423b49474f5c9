"""A device that does not share the CPU's memory gives the same scores as the CPU."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.denoisers.formats import load_denoiser
from diffguard.diffusion.path import Path
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.diffusion.solvers import SOLVERS, build_solver
from diffguard.methods.depth import fit_early_stop
from diffguard.settings.guidance import (
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.sections import (
    EarlyStopSettings,
    InversionSettings,
    SamplerSettings,
    SynthesisSettings,
)
from diffguard.training.noising import noised_images
from diffguard.training.settings import DiffusionTraining
from lightning_modules.classifier import ClassifierModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.noisy_classifier import NoisyClassifierModule
from tests.helpers import tiny_training
from tests.helpers.fake_gpu import Remote, fake_gpu
from tests.helpers.family_detectors import detector_of
from tests.helpers.tiny_detector import CLASSES, build_detector, small_settings
from tests.helpers.tiny_families import FAMILIES, options_of

SETTINGS = {
    "CAM": {
        "guidance": ClassifierFreeSettings(scale=2.0, cam_cut=0.3),
        "unguided": ["l2"],
        "distances": ["feature_cosine", "ssim", "l2", "l1", "psnr", "gmsd", "dists_statistics"],
        "distance": ["l2"],
    },
    "label in inversion": {
        "inversion": InversionSettings(condition="guided", scale=2.0),
        "sampler": SamplerSettings(steps=6, clip=True, pairing="current"),
    },
    "classifier": {
        "guidance": ClassifierGuidanceSettings(),
        "synthesis": SynthesisSettings(extra_start=1),
        "label": "oracle",
        "unguided": ["l2"],
    },
    "crops": {
        "guidance": ClassifierGuidanceSettings(crops=CropSettings(number=2, size=6)),
        "early_stop": EarlyStopSettings(thresholds={"psnr": 9.0}),
        "sampler": SamplerSettings(steps=6, clip=True),
    },
    "noisy classifier": {
        "guidance": ClassifierGuidanceSettings(model="noisy", blend=False),
    },
    "larger shared crops": {
        "guidance": ClassifierGuidanceSettings(crops=CropSettings(number=2, size=12, shared=True)),
    },
}


def test_the_device_refuses_what_a_gpu_refuses():
    with fake_gpu() as device:
        there, here = torch.rand(3).to(device), torch.rand(3)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="indices on the device"):
            here[torch.zeros(1, dtype=torch.long, device=device)]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert isinstance(there * 2, Remote)
        assert torch.equal((there * 2).cpu(), there.inner * 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_are_those_of_the_cpu(name, images):
    settings, noisy = small_settings(**SETTINGS[name]), None
    if name == "noisy classifier":
        noisy = TimedCNN(CLASSES, width=16)
    expected = build_detector(settings, noisy_classifier=noisy).score_images(images, batch_size=8)
    with fake_gpu() as device:
        detector = build_detector(settings, noisy_classifier=noisy).to(device)
        assert detector.device == device
        results = detector.score_images(images.to(device), batch_size=8)
    for result, other in zip(results, expected, strict=True):
        assert result.row.scores == other.row.scores
        assert torch.equal(result.reconstruction.guided.cpu(), other.reconstruction.guided)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_make_the_steps_of_the_cpu(name):
    schedule, images = NoiseSchedule.linear(), torch.rand(2, 1, 4, 4)
    solver = build_solver(name, "target", schedule, window=20, cutoff=100)

    def noise(x, t):
        return torch.tanh(x + t.view(-1, 1, 1, 1) / 1000)

    def round_trip(x):
        path = Path(solver, SamplingPlan.build(schedule, 5), x, clip=True)
        *_, _ = path.invert(noise, 3)
        *_, x = path.fork().synthesize(noise, 2, lambda shown, eps, _: shown.x * eps)
        return x

    expected = round_trip(images)
    with fake_gpu() as device:
        assert torch.equal(round_trip(images.to(device)).cpu(), expected)


def test_the_early_stop_is_fitted_there(images):
    stop = EarlyStopSettings({"psnr": None, "feature_cosine": None}, mean_depth=0.4)
    settings = small_settings(early_stop=stop)
    labels = torch.zeros(len(images), dtype=torch.int64)
    batches = [{"image": images, "label": labels, "error": [""] * len(images)}]
    expected = fit_early_stop(build_detector(settings, calibrated=False).models, batches, 8)
    with fake_gpu() as device:
        detector = build_detector(settings, calibrated=False).to(device)
        assert fit_early_stop(detector.models, batches, 8) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores_there(models, name):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    scores = []
    for place in (nullcontext(torch.device("cpu")), fake_gpu()):
        denoiser = load_denoiser(models(name), options_of(name), image_size=16)
        with place as device:
            detector = detector_of(denoiser).to(device)
            scores.append(detector.score(images, name="diffguard/l2", batch_size=8))
    # Attention is computed by another kernel there.
    torch.testing.assert_close(*scores, rtol=1e-5, atol=0.0)


def noisy_classifier(network, denoiser):
    noised = partial(noised_images, denoiser)
    return NoisyClassifierModule(network, noised, len(denoiser.schedule))


def modules_to_train():
    return {
        "classifier": ClassifierModule(tiny_training.classifier()),
        "diffusion": DiffusionModule(
            tiny_training.denoiser(), DiffusionTraining(loss_weighting="min_snr")
        ),
        "v prediction": DiffusionModule(tiny_training.denoiser("dit", prediction="v_prediction")),
        "noisy classifier": noisy_classifier(TimedCNN(3, width=16), tiny_training.denoiser()),
    }


@pytest.mark.parametrize("name", modules_to_train())
def test_training_steps_are_made_there(name):
    batch = next(iter(tiny_training.train_loader()))
    losses = []
    for place in (nullcontext(torch.device("cpu")), fake_gpu()):
        module = modules_to_train()[name]
        module.log_mean = lambda name, value, count: None
        with place as device:
            there = {key: batch[key].to(device) for key in ("image", "label")}
            module.to(device)
            torch.manual_seed(0)
            loss = module.training_step(there, 0)
            loss.backward()
            assert all(p.grad.device == device for p in module.parameters() if p.grad is not None)
            module.validation_step(there, 0)
            losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_noisy_classifier_of_a_latent_model_is_trained_there(models, tmp_path):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 16, 16, generator=generator)
    losses = []
    for place in (nullcontext(torch.device("cpu")), fake_gpu()):
        denoiser = load_denoiser(
            models("latent_classes_kl"), options_of("latent_classes_kl"), image_size=16
        )
        channels = denoiser.preview(denoiser.encode(images)).shape[1]
        torch.manual_seed(0)
        module = noisy_classifier(TimedCNN(3, channels, width=16), denoiser)
        module.log_mean = lambda name, value, count: None
        module.trainer = tiny_training.trainer(tmp_path)
        with place as device, torch.no_grad():
            batch = {"image": images.to(device), "label": torch.arange(3).to(device)}
            denoiser.to(device)
            module.to(device)
            losses.append(float(module.training_step(batch, 0)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
