"""The cost of a detector, computed without weights and images."""

from dataclasses import replace

import pytest
import torch

import evaluate
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.cost import dry_run, format_cost
from diffguard.denoisers.build import build_denoiser
from diffguard.denoisers.parts import DiffusionParts
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.settings.fusion import FusionSettings
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings
from diffguard.settings.reconstruction_methods import LmdSettings
from diffguard.settings.sections import EarlyStopSettings, SynthesisSettings
from tests.helpers.published import DIT_XL_2, latent_spec
from tests.helpers.tiny_detector import small_settings
from tests.helpers.tiny_families import CLASSES, dit, kl
from tests.helpers.tiny_models import tiny_classifier

CLASSIFIER = ClassifierSpec("small_cnn", CLASSES, {"width": 4}, channels=3)
SCHEDULER = {"beta_schedule": "linear", "num_train_timesteps": 100}


def spec():
    parts = DiffusionParts("ldm", dit(), SCHEDULER, 16, CLASSES, CLASSES, kl())
    return parts.spec(image_size=16)


def scored(settings, diffusion):
    torch.manual_seed(0)
    plain = replace(settings, baselines=[], fused=[], decision="diffguard")
    detector = Detector(
        tiny_classifier(CLASSES), build_denoiser(diffusion), plain, image_size=16, image_channels=3
    )
    images = torch.rand(2, 3, 16, 16)
    return {image.row.network_passes for image in detector.score_images(images, batch_size=8)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unguided": ["l2"]},
        {"guidance": ClassifierFreeSettings(scale=1.0)},
        {"guidance": ClassifierGuidanceSettings(scale=2.0), "unguided": ["l2"]},
        {"synthesis": SynthesisSettings(skip=0)},
        {"methods": ["diffguard", "lmd"], "lmd": LmdSettings(2, 4, "l2")},
        {"methods": ["diffguard", "diffnb", "minority", "guidance_norm"]},
    ],
)
def test_passes_equal_those_of_a_scored_image(changes):
    settings, diffusion = small_settings(**changes), spec()
    cost = dry_run(CLASSIFIER, diffusion, settings)
    assert cost.fewest_passes == cost.most_passes
    assert scored(settings, diffusion) == {cost.most_passes}


def test_a_mask_and_an_early_stop_lower_the_minimum_of_passes():
    diffusion, plain = spec(), dry_run(CLASSIFIER, spec(), small_settings())
    guidance = ClassifierFreeSettings(cam_cut=0.3)
    masked = dry_run(CLASSIFIER, diffusion, small_settings(guidance=guidance))
    # The same six steps, each without the guided pass.
    assert masked.most_passes == plain.most_passes == 12
    assert masked.fewest_passes == 8
    stop = small_settings(early_stop=EarlyStopSettings(thresholds={"dists": 0.3}))
    stopped = dry_run(CLASSIFIER, diffusion, stop)
    assert (stopped.fewest_passes, stopped.most_passes) == (3, 12)
    assert "network passes per image: 3 to 12" in format_cost(stopped)
    cascade = dry_run(CLASSIFIER, spec(), small_settings(fusion=FusionSettings("cascade")))
    assert "network passes per image in doubt (others: 0): 12" in format_cost(cascade)


def test_weights_are_counted_in_the_trainers_precision():
    full, half = (
        dry_run(CLASSIFIER, spec(), small_settings(), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    modules = [tiny_classifier(CLASSES).network, dit(), kl()]
    for part, module in zip(full.parts, modules, strict=True):
        assert part.parameters >= sum(p.numel() for p in module.parameters())
    network = sum(p.numel() for p in dit().parameters())
    assert [p.name for p in full.parts] == ["classifier", "network", "autoencoder"]
    assert full.parts[1].bytes >= 4 * network
    assert half.parts[1].bytes * 2 == full.parts[1].bytes
    assert half.parts[0].bytes == full.parts[0].bytes


def test_counting_a_dit_xl_2_takes_no_memory():
    diffusion = latent_spec("DiTTransformer2DModel", DIT_XL_2, 256, 1000)
    classifier = replace(CLASSIFIER, num_classes=1000)
    cost = dry_run(classifier, diffusion, small_settings(), dtype=torch.bfloat16)
    _, network, autoencoder = cost.parts
    # 675M in the paper's table 1, where all 28 blocks share the embeddings of timestep and label;
    # in diffusers each has its own. The published autoencoder has 83.65M weights.
    embeddings = (256 + 1) * 1152 + (1152 + 1) * 1152 + 1001 * 1152
    assert 674.5e6 < network.parameters - 27 * embeddings < 675.5e6
    assert 83.6e6 < autoencoder.parameters < 83.7e6
    assert network.bytes == 2 * network.parameters


def test_dry_run_prints_the_cost_and_scores_nothing(run_folder, tmp_path, capsys):
    options = ["--ckpt", str(run_folder / "detector.ckpt"), "--output", str(tmp_path / "out")]
    assert evaluate.main([*options, "--dry_run", "--trainer.precision", "bf16-true"]) == 0
    output = capsys.readouterr().out
    assert "network UNet2DModel" in output
    assert "network passes per image: 9" in output
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"detector\.inversion\.depth"):
        evaluate.main([*options, "--dry_run", "--detector.inversion.depth", "7"])
