"""Pixel models that rearrange patches of pixels into channels: a pass at a fraction of the cost."""

import json
from dataclasses import asdict, replace

import pytest
import torch

import train
from diffguard.checkpoint.build import specs_of
from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.cost import dry_run
from diffguard.denoisers.build import build_denoiser, wrap_parts
from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.parts import DiffusionParts
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.detector import Detector
from diffguard.diffusion.guidance import classifier_free
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from diffguard.settings.guidance import (
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.sections import EarlyStopSettings
from diffguard_cli import compact
from tests.helpers.tiny_detector import CLASSES, small_settings
from tests.helpers.tiny_families import write_folder
from tests.helpers.tiny_models import UNET, tiny_classifier, two_layers
from tests.helpers.tiny_project import write_config

PATCHES = {**UNET, "sample_size": 4, "in_channels": 4, "out_channels": 4}
SPEC = DiffusionSpec(
    "UNet2DModel", PATCHES, {"beta_schedule": "linear"}, 8, 1, CLASSES, CLASSES, patch=2
)


def patched(image_size=8, fit="resize", **options):
    """Color images as states of 12 channels and 4×4 positions."""
    return PixelDenoiser(
        two_layers(12, 4, CLASSES), NoiseSchedule.linear(), image_size, 3, CLASSES, CLASSES,
        fit, patch=2, **options,
    ).eval()  # fmt: skip


def test_states_hold_the_pixels_themselves():
    denoiser, images = patched(), torch.rand(2, 3, 8, 8)
    state = denoiser.encode(images)
    assert state.shape == (2, 12, 4, 4)
    # A position holds the four pixels of its square, channel by channel.
    square = images[1, 2, 4:6, 2:4] * 2 - 1
    assert torch.equal(state[1, 8:, 2, 1], square.flatten())
    assert torch.equal(denoiser.to_working_size(state), images * 2 - 1)
    torch.testing.assert_close(denoiser.decode(state), images, rtol=0, atol=1e-7)
    torch.testing.assert_close(denoiser.preview(state), images, rtol=0, atol=1e-7)
    assert denoiser.preview_size == 8


def test_images_of_another_size_are_resized_or_padded():
    larger = patched(10).encode(torch.rand(2, 3, 10, 10))
    assert larger.shape == (2, 12, 4, 4)
    assert patched(10).decode(larger).shape == (2, 3, 10, 10)
    # An odd margin: the image does not begin where a patch does.
    denoiser, images = patched(5, "pad"), torch.rand(2, 3, 5, 5)
    state = denoiser.encode(images)
    assert state.shape == (2, 12, 4, 4)
    assert torch.equal(denoiser.to_working_size(state), images * 2 - 1)
    assert denoiser.preview(state).shape == (2, 3, 5, 5)
    assert denoiser.preview_size == 5
    assert (state[:, :, 3, 3] == -1).all()
    gray = PixelDenoiser(two_layers(4, 4), NoiseSchedule.linear(), 8, 3, patch=2)
    assert gray.decode(gray.encode(torch.rand(2, 3, 8, 8))).shape == (2, 3, 8, 8)


def test_a_mask_covers_every_pixel_it_names():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:4] = mask[0, 5, 7] = True
    placed = patched().place_mask(mask)
    assert placed.dtype == torch.bool
    assert placed[0].nonzero().tolist() == [[1, 1], [2, 3]]
    # Guidance under it changes these squares of pixels and no other.
    denoiser = patched()
    null, label = torch.zeros(1, 12, 4, 4), torch.ones(1, 12, 4, 4)
    changed = denoiser.to_working_size(classifier_free(null, label, 2.0, placed))[0] != 0
    assert changed.all(0).nonzero().tolist() == [
        [2, 2], [2, 3], [3, 2], [3, 3], [4, 6], [4, 7], [5, 6], [5, 7],
    ]  # fmt: skip
    assert torch.equal(changed.any(0), changed.all(0))
    corner = torch.zeros(1, 5, 5, dtype=torch.bool)
    corner[0, 4, 4] = True
    assert patched(5, "pad").place_mask(corner)[0].nonzero().tolist() == [[2, 2]]
    small = torch.tensor([[[True, False], [False, False]]])
    assert patched(10).place_mask(small)[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


GUIDANCE = {
    "classifier_free": {"guidance": ClassifierFreeSettings(scale=2.0)},
    "classifier": {
        "guidance": ClassifierGuidanceSettings(scale=50.0, crops=CropSettings(number=2, size=6))
    },
    "mask": {"guidance": ClassifierFreeSettings(scale=2.0, cam_cut=0.2)},
    "early_stop": {
        "guidance": ClassifierFreeSettings(scale=2.0),
        "early_stop": EarlyStopSettings(thresholds={"psnr": 12.0}),
    },
}


@pytest.mark.parametrize("kind", GUIDANCE)
def test_every_guidance_runs_on_patches(kind):
    settings = small_settings(
        **GUIDANCE[kind],
        distances=["l2"], unguided=["l2"], distance=["l2"], baselines=["msp"], fused=[],
        decision="diffguard",
    )  # fmt: skip
    detector = Detector(
        tiny_classifier(CLASSES), patched(), settings, image_size=8, image_channels=3
    )
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    results = detector.score_images(images, batch_size=8)
    for result in results:
        assert result.row.scores["diffguard/l2"] > 0
    # Guidance moved images away from what inversion alone gives back.
    assert any(result.row.scores["diffguard/unguided/l2"] > 0 for result in results)
    alone = detector.score_images(images[3:4], batch_size=8)[0]
    assert alone.row.scores == results[3].row.scores
    if kind == "early_stop":
        assert all(result.row.stop_step < 4 for result in results)


def test_patches_of_one_pixel_change_nothing():
    images, network = torch.rand(2, 3, 6, 6), two_layers(3, 8, CLASSES)
    mask = images[:, 0] > 0.5
    for fit in ("resize", "pad"):
        plain, patched = (
            PixelDenoiser(network, NoiseSchedule.linear(), 6, 3, CLASSES, CLASSES, fit, **options)
            for options in ({}, {"patch": 1})
        )
        state = plain.encode(images)
        assert torch.equal(state, patched.encode(images))
        assert torch.equal(plain.preview(state), patched.preview(state))
        assert torch.equal(plain.place_mask(mask), patched.place_mask(mask))


def test_a_folder_and_a_checkpoint_keep_the_patches(tmp_path):
    torch.manual_seed(0)
    denoiser = build_denoiser(SPEC).eval()
    parts = DiffusionParts("ddpm", denoiser.network, SPEC.scheduler, 8, CLASSES, CLASSES, patch=2)
    save_folder(parts, tmp_path / "model")
    loaded = load_diffusion(tmp_path / "model", CheckpointOptions(num_classes=CLASSES))
    assert (loaded.patch, loaded.image_size) == (2, 8)
    spec = loaded.spec(image_channels=1)
    assert spec.patch == 2
    again, images = wrap_parts(loaded, spec).eval(), torch.rand(2, 1, 8, 8)
    state, t, y = denoiser.encode(images), torch.tensor([3, 900]), torch.tensor([0, CLASSES])
    assert torch.equal(again.encode(images), state)
    assert torch.equal(again.predict_noise(state, t, y), denoiser.predict_noise(state, t, y))
    wider = load_diffusion(tmp_path / "model", CheckpointOptions(image_size=12, num_classes=3))
    assert (wider.network.config["sample_size"], wider.image_size) == (6, 12)
    for value in (0, "2", 2.5):
        note = tmp_path / "model" / "diffguard.json"
        note.write_text(json.dumps({**json.loads(note.read_text()), "patch": value}))
        with pytest.raises(UserError, match="patch is damaged") as caught:
            load_diffusion(tmp_path / "model", CheckpointOptions(num_classes=CLASSES))
        assert "\n" not in str(caught.value)


def test_models_written_before_there_were_patches_load(tmp_path):
    folder = write_folder("unet_classes", tmp_path / "old")
    note = folder / "diffguard.json"
    content = json.loads(note.read_text())
    assert content.pop("patch") == 1
    note.write_text(json.dumps(content))
    assert load_diffusion(folder).patch == 1
    old = {key: value for key, value in asdict(SPEC).items() if key != "patch"}
    classifier = {"spec": {"arch": "small_cnn", "num_classes": CLASSES}}
    assert specs_of({"classifier": classifier, "diffusion": {"spec": old}})[1].patch == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "takes 4 channels, expected 9 or 27"),
        ({"patch": 1}, "takes 4 channels, expected 1 or 3"),
        ({"fit": "pad", "image_size": 9}, "9 pixels cannot be padded to the diffusion model's 8"),
        ({"config": {**PATCHES, "sample_size": 5, "block_out_channels": [8, 8],
                     "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}},
         "states with a side of 5: expected a multiple of 2"),
        ({"autoencoder": "VQModel", "autoencoder_config": {"latent_channels": 4}}, "pixel models"),
    ],
)  # fmt: skip
def test_patches_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        build_denoiser(replace(SPEC, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("patch", "message"), [(3, "8 pixels cannot be cut"), (0, "at least 1")])
def test_a_config_with_impossible_patches_is_refused(tmp_path, data_root, patch, message):
    path = write_config(tmp_path / "tiny.yaml", data_root)
    arguments = [
        "--config",
        str(path),
        "--run_dir",
        str(tmp_path / "run"),
        "--stages",
        "[diffusion]",
    ]
    with pytest.raises(UserError, match=message):
        train.main([*arguments, "--diffusion.patch", str(patch)])


def test_a_run_with_patches_from_training_to_the_kept_weights(tmp_path, data_root):
    path = write_config(tmp_path / "tiny.yaml", data_root)
    arguments = [
        "--config",
        str(path),
        "--run_dir",
        str(tmp_path / "run"),
        "--diffusion.patch",
        "2",
    ]
    assert train.main([*arguments, "--diffusion.sample_every", "1"]) == 0
    content = read_checkpoint(tmp_path / "run" / "detector.ckpt")
    spec = content["diffusion"]["spec"]
    assert (spec["patch"], spec["config"]["in_channels"]) == (2, 4 * spec["image_channels"])
    detector = Detector.load(tmp_path / "run" / "detector.ckpt")
    side, channels = detector.image_size, detector.image_channels
    assert detector.denoiser.patch == 2
    assert detector.predict(torch.rand(2, channels, side, side)).score.isfinite().all()
    compact.compact_models(tmp_path / "run", tmp_path / "kept")
    folder = tmp_path / "kept" / "diffusion"
    assert load_diffusion(folder).patch == 2
    other = ["--diffusion.ckpt", str(folder), "--diffusion.patch", "4", "--stages", "[calibrate]"]
    with pytest.raises(UserError, match=r"patch is 4, but .* was trained with 2"):
        train.main(
            [
                "--config",
                str(path),
                "--run_dir",
                str(tmp_path / "other"),
                *other,
                "--classifier.ckpt",
                str(tmp_path / "kept/classifier/classifier.safetensors"),
            ]
        )


def test_a_dry_run_counts_the_smaller_network():
    cost = dry_run(ClassifierSpec("small_cnn", CLASSES, channels=1), SPEC, small_settings())
    network = next(part for part in cost.parts if part.name == "network")
    assert network.parameters == sum(p.numel() for p in build_denoiser(SPEC).network.parameters())
