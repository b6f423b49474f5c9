"""Detectors with a diffusion model of every family, built directly or from a config."""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml

import evaluate
import train
from diffguard import Detector
from diffguard.checkpoint.file import read_checkpoint
from diffguard.denoisers.formats import load_denoiser, load_diffusion
from diffguard.denoisers.formats.folder import label_rows
from diffguard.denoisers.formats.options import CheckpointOptions
from diffguard.denoisers.formats.save import save_folder
from diffguard.errors import UserError
from diffguard.methods.depth import fit_early_stop
from diffguard.settings.guidance import ClassifierGuidanceSettings
from diffguard.settings.sections import EarlyStopSettings
from tests.helpers.family_detectors import detector_of, settings_for
from tests.helpers.tiny_families import CLASSES, FAMILIES, FILES, FOLDERS, options_of
from tests.helpers.tiny_models import denoiser_of, tiny_classifier, two_layers
from tests.helpers.tiny_project import write_config


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_the_whole_detector(models, name):
    denoiser = load_denoiser(models(name), options_of(name), image_size=16)
    detector = detector_of(denoiser)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    scored = detector.score_images(images, batch_size=8)
    for image in scored:
        assert image.row.scores["diffguard/l2"] > 0
        # Guidance changes the reconstruction.
        assert image.row.scores["diffguard/unguided/l2"] > 0
        # Two steps of inversion, and two each of guided and unguided synthesis with a shared pass.
        assert image.row.network_passes >= 4
    alone = detector.score_images(images[1:2], batch_size=8)[0]
    assert alone.row.scores == scored[1].row.scores
    if denoiser.null_class is not None:
        masked = detector_of(denoiser, cam_cut=1.0).score_images(images, batch_size=8)
        assert all(image.row.scores["diffguard/unguided/l2"] == 0 for image in masked)


def test_the_depth_of_a_model_without_a_null_class_is_fitted_with_predicted_labels(models):
    """Class-conditional models of guided-diffusion have no null class."""
    denoiser = load_denoiser(models("adm_cond"), options_of("adm_cond"), image_size=16)
    detector = detector_of(denoiser)
    stop = EarlyStopSettings({"psnr": None}, mean_depth=0.5)
    settings = replace(detector.settings, early_stop=stop)
    detector = Detector(**vars(replace(detector.parts, settings=settings)))
    batch = {"image": torch.rand(8, 3, 16, 16), "label": torch.zeros(8), "error": [""] * 8}
    # As in scoring, the network sees the predicted labels.
    assert fit_early_stop(detector.models, [batch], 8).keys() == {"psnr"}


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_uses_fused_kernels(models, name):
    denoiser = load_denoiser(models(name), options_of(name))
    processors = [
        type(module.processor).__name__
        for part in denoiser.parts().values()
        for module in part.modules()
        if hasattr(module, "processor")
    ]
    assert set(processors) <= {"AttnProcessor2_0"}
    assert processors or name in ("unet", "unet_classes")


@pytest.mark.parametrize("name", ["latent_dit_kl", "stable_diffusion", "adm_cond"])
def test_weights_in_half_precision_give_similar_scores(models, name):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        denoiser = load_denoiser(models(name), options_of(name), image_size=16)
        denoiser.cast(dtype)
        assert {p.dtype for p in denoiser.parameters()} == {dtype}
        scores.append(detector_of(denoiser).score(images, name="diffguard/l2", batch_size=1))
    assert not torch.equal(*scores)
    torch.testing.assert_close(*scores, rtol=0.2, atol=0.0)


def test_an_autoencoder_that_overflows_in_float16_is_not_cast(models):
    denoiser = load_denoiser(models("stable_diffusion"), options_of("stable_diffusion"))
    assert denoiser.autoencoder.config["force_upcast"]
    denoiser.cast(torch.float16)
    assert next(denoiser.network.parameters()).dtype == torch.float16
    assert next(denoiser.autoencoder.parameters()).dtype == torch.float32


def test_autoencoders_process_slices(models):
    path, options = models("latent_dit_kl"), options_of("latent_dit_kl")
    images = torch.rand(16, 3, 16, 16)
    scores = []
    for slice_size in (1, 8, 16):
        denoiser = load_denoiser(path, options, image_size=16, slice_size=slice_size)
        sizes = set()
        denoiser.autoencoder.decoder.register_forward_pre_hook(
            lambda _module, inputs, sizes=sizes: sizes.add(len(inputs[0]))
        )
        scores.append(detector_of(denoiser).score(images, name="diffguard/l2", batch_size=16))
        assert sizes == {slice_size}
    for other in scores[1:]:
        torch.testing.assert_close(scores[0], other, rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="slice_size must be 1 or a multiple of 8"):
        load_denoiser(path, options, slice_size=3)


@pytest.mark.parametrize("name", ["unet", "latent_unet_vq", "latent_dit_kl", "stable_diffusion"])
def test_a_written_folder_loads_as_a_diffusers_pipeline(models, tmp_path, name):
    from diffusers import DiffusionPipeline

    parts = load_diffusion(models(name), options_of(name))
    save_folder(parts, tmp_path / "again", text_from=models(name))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "again", local_files_only=True)
    network = pipeline.components.get("unet") or pipeline.components["transformer"]
    ours = parts.network.state_dict()
    assert all(torch.equal(ours[n], value) for n, value in network.state_dict().items())


# --- named in a config ----------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path, data_root, run_folder, no_figures):
    """Calibrate with the diffusion model of a config."""

    def run(name, path, *, detector=None, **diffusion):
        config = write_config(
            tmp_path / f"{name}.yaml",
            data_root,
            diffusion={"ckpt": str(path), **diffusion},
            detector={"distance": ["l2"], "sampler": {"steps": 3}, **(detector or {})},
            classifier={"ckpt": str(run_folder / "classifier" / "classifier.safetensors")},
        )
        folder = tmp_path / name
        assert train.main(["--config", str(config), "--run_dir", str(folder)]) == 0
        return folder / "detector.ckpt"

    return run


CLASSIFIER_GUIDED = {"guidance": "classifier"}
WHOLE_WAY = {
    "adm_uncond": {
        "model": {"image_size": 32, "num_head_channels": 16},
        "detector": CLASSIFIER_GUIDED,
        "store": "reference",
    },
    "latent_classes_kl": {},
}


@pytest.mark.parametrize("name", WHOLE_WAY)
def test_a_model_of_a_config_scores_all_images(models, start, tmp_path, name):
    ckpt = start("run", models(name), **WHOLE_WAY[name])
    out = tmp_path / "out"
    assert evaluate.main(["--ckpt", str(ckpt), "--output", str(out), "--panels", "0"]) == 0
    assert (out / "scores.csv").read_bytes().count(b"\n") == 1 + 18 + 7 + 9


def test_a_referenced_model_scores_like_a_stored_one(models, start):
    """The checkpoint contains the prompt embeddings in both cases."""
    path = models("stable_diffusion")
    held = start("held", path, prompt="a drawing of {name}")
    named = start("named", path, prompt="a drawing of {name}", store="reference")
    content = read_checkpoint(named)["diffusion"]
    assert content["state"] is None
    assert content["reference"]["path"] == str(path)
    assert named.stat().st_size < held.stat().st_size / 2
    images = torch.rand(2, 1, 8, 8)
    first, second = (Detector.load(ckpt).score(images) for ckpt in (held, named))
    assert torch.equal(first, second)


def test_a_reference_accepts_only_the_same_model(models, start, tmp_path):
    path = shutil.copytree(models("latent_dit_kl"), tmp_path / "model")
    ckpt = start("named", path, store="reference")
    first = Detector.load(ckpt)
    moved = path.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"does not exist.*--diffusion_model"):
        Detector.load(ckpt)
    images = torch.rand(2, 1, 8, 8)
    again = Detector.load(ckpt, diffusion=str(moved))
    assert torch.equal(again.score(images), first.score(images))
    config = moved / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    with pytest.raises(UserError, match="is not the diffusion model that the detector was calib"):
        Detector.load(ckpt, diffusion=str(moved))
    held = start("held", models("latent_dit_kl"))
    with pytest.raises(UserError, match="holds its diffusion model itself"):
        Detector.load(held, diffusion=str(moved))


def test_a_reference_inside_the_run_folder_moves_with_it(run_folder, tmp_path):
    """A run that refers to its own diffusion model can be moved."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["diffusion"]["store"] = "reference"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert train.main(["--resume", str(folder), "--stages", "[calibrate]"]) == 0
    moved = folder.rename(tmp_path / "elsewhere")
    images = torch.rand(2, 1, 8, 8)
    expected = Detector.load(run_folder / "detector.ckpt").score(images)
    assert torch.equal(Detector.load(moved / "detector.ckpt").score(images), expected)


MISTAKES = {
    "another number of classes": ("ldm_cin", {}, "give image_size"),
    "classes": (
        "ldm_cin",
        {"model": {"image_size": 32, "num_heads": 1}},
        "knows 10 classes, expected 3",
    ),
    "an unconditional model": (
        "adm_uncond",
        {"model": {"image_size": 32, "num_head_channels": 16}},
        "need a class-conditional diffusion model",
    ),
    "a size": (
        "adm_uncond",
        {"model": {"image_size": 30, "num_head_channels": 16}},
        "this model cannot take image_size 30: expected a multiple of 4",
    ),
    "a fit": ("latent_dit_kl", {"fit": "pad"}, "cannot be padded for a latent model"),
    "a slice": ("latent_dit_kl", {"slice_size": 5}, "slice_size must be 1 or a multiple of 8"),
    "clipped latents": (
        "latent_dit_kl",
        {"detector": {"sampler": {"steps": 3, "clip": True}}},
        "detector.sampler.clip",
    ),
    "a classifier": ("openood", {}, "is a classifier, expected a diffusion model"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_give_one_line(models, start, kind):
    name, changes, message = MISTAKES[kind]
    path = FILES["adm_uncond"].folder / "openood_resnet18_32x32.ckpt"
    if name != "openood":
        path = models(name)
    with pytest.raises(UserError, match=message) as caught:
        start("wrong", path, **changes)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_gives_one_line(start, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="the hub did not provide it") as caught:
        start("hub", "owner/name")
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_downloaded_only_from_a_config(models, start, monkeypatch, tmp_path):
    requests = []

    def download(name, revision, *, local_files_only, **_):
        requests.append((name, revision, local_files_only))
        return str(models("latent_dit_kl"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    ckpt = start("hub", "owner/name@v1", store="reference")
    assert read_checkpoint(ckpt)["diffusion"]["reference"]["path"] == "owner/name@v1"
    # Downloaded once; the reference is to the files in the cache.
    assert set(requests) == {("owner/name", "v1", False), ("owner/name", "v1", True)}
    requests.clear()
    detector = Detector.load(ckpt)
    assert detector.denoiser.num_classes == CLASSES
    detector.save(tmp_path / "again.ckpt")
    # A checkpoint alone never causes a download.
    assert set(requests) == {("owner/name", "v1", True)}


def test_families_include_all_folders_and_files():
    assert set(FOLDERS) < set(FAMILIES)
    assert {"adm_uncond", "adm_cond", "ldm_cin", "ddpm_cifar_cond"} < set(FAMILIES)


def test_classes_must_match_only_if_the_diffusion_model_gets_labels():
    denoiser = denoiser_of(two_layers(size=16, classes=5), classes=5)
    classifier = tiny_classifier(3)
    free = replace(settings_for(denoiser), unguided=[])
    with pytest.raises(UserError, match=r"has 3 classes but the diffusion model 5.*guidance to cl"):
        Detector(classifier, denoiser, free, image_size=16, image_channels=3)
    guidance = ClassifierGuidanceSettings()
    detector = Detector(
        classifier, denoiser, replace(free, guidance=guidance), image_size=16, image_channels=3
    )
    assert detector.score(torch.rand(2, 3, 16, 16), name="diffguard/l2").isfinite().all()
    assert label_rows(6, CheckpointOptions(null_class=5)) == (5, 5)
    with pytest.raises(UserError, match=r"give num_classes .*, or null_class"):
        label_rows(6, CheckpointOptions())
