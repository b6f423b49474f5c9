"""Diffusion models as diffusers folders, out and in again."""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DiTTransformer2DModel
from safetensors.torch import load_file, save_file

from diffguard.denoisers.build import wrap_parts
from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.folder import label_rows
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.parts import DiffusionParts
from diffguard.errors import UserError
from tests.helpers.tiny_models import tiny_unet

SCHEDULER = {
    "beta_schedule": "linear",
    "num_train_timesteps": 50,
    "prediction_type": "v_prediction",
}


def dit(classes=3):
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=1,
        out_channels=2,
        num_layers=1,
        norm_num_groups=4,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=classes,
    ).eval()


NETWORKS = {
    "unet": lambda: tiny_unet(1, 8, 3),
    "unconditional": lambda: tiny_unet(1, 8),
    "transformer": dit,
}


def save(folder, network, scheduler=SCHEDULER, **options):
    labels = network.config.get("num_class_embeds") or network.config.get("num_embeds_ada_norm")
    classes = None if labels is None else 3
    save_folder(DiffusionParts("ddpm", network, scheduler, 8, classes, classes), folder, **options)


def load(folder, null_class=None, **use):
    parts = load_diffusion(folder, CheckpointOptions(num_classes=3, null_class=null_class))
    spec = parts.spec(**{"image_channels": 1, **use})
    return wrap_parts(parts, spec).eval(), spec


@pytest.fixture
def folder(tmp_path):
    """A saved U-Net of three classes, and its weights file."""
    save(tmp_path / "model", tiny_unet(1, 8, 3))
    return tmp_path / "model"


@pytest.fixture
def weights(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_model_gives_the_same_outputs(tmp_path, kind):
    network = NETWORKS[kind]()
    save(tmp_path / "model", network)
    denoiser, spec = load(tmp_path / "model")
    denoiser.eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 20, 49])
    labels = None if kind == "unconditional" else torch.tensor([0, 2, 3])
    with torch.no_grad():
        expected = network(x, t, class_labels=labels).sample
        assert torch.equal(denoiser.network(x, t, class_labels=labels).sample, expected)
        # A learned variance is left out, and v becomes the noise.
        alpha = denoiser.schedule.alphas_cumprod[t].to(x).view(-1, 1, 1, 1)
        noise = alpha.sqrt() * expected[:, :1] + (1 - alpha).sqrt() * x
        torch.testing.assert_close(denoiser.predict_noise(x, t, labels), noise)
    assert spec.network == type(network).__name__
    assert spec.scheduler["prediction_type"] == "v_prediction"
    assert (spec.num_classes, spec.null_class) == (
        (None, None) if kind == "unconditional" else (3, 3)
    )
    assert not any(key.startswith("_") for key in (*spec.config, *spec.scheduler))


def test_a_unet_is_a_pipeline_that_diffusers_runs(folder):
    pipeline = DDPMPipeline.from_pretrained(folder, local_files_only=True)
    assert pipeline.scheduler.config.num_train_timesteps == 50
    assert not list(folder.rglob("*.bin"))
    with pytest.raises(UserError, match="already exists"):
        save(folder, tiny_unet(1, 8, 3))


def test_an_empty_folder_is_filled_in_one_step(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    save(Path(), tiny_unet(1, 8, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    fresh = tiny_unet(1, 8, 3).state_dict()
    weights = load(tmp_path / "empty")[0].network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in fresh.items())


def test_a_crash_while_writing_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(DDPMPipeline, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path / "model", tiny_unet(1, 8, 3, seed=5))
    assert not any(tmp_path.iterdir())


def test_options_reach_the_denoiser(folder):
    denoiser, spec = load(folder, image_size=6, image_channels=3, fit="pad", antialias=False)
    assert denoiser.encode(torch.rand(2, 3, 6, 6)).shape == (2, 1, 8, 8)
    assert (spec.fit, spec.antialias, spec.image_size, spec.image_channels) == ("pad", False, 6, 3)


@pytest.mark.parametrize(
    ("rows", "classes", "null", "expected"),
    [
        # A row more than the classifier's classes is that of no label.
        (4, 3, None, (3, 3)),
        # As many rows as classes: "no label" cannot be expressed.
        (3, 3, None, (3, None)),
        (4, None, 3, (3, 3)),
    ],
)
def test_the_null_class_follows_from_the_folder(rows, classes, null, expected):
    options = CheckpointOptions(num_classes=classes, null_class=null)
    assert label_rows(rows, options) == expected


@pytest.mark.parametrize(
    ("rows", "classes", "null", "message"),
    [
        (9, 3, None, "has 9 class embeddings, expected num_classes 9 or 8, got 3"),
        (4, None, None, "has 4 class embeddings: give num_classes"),
        (4, 3, 7, "null_class must be 3, the last of the 4 class embeddings.* got 7"),
        (4, 3, 0, "null_class must be 3.* because the classes are 0 to 2, got 0: reorder"),
    ],
)
def test_labels_that_do_not_fit_are_refused(rows, classes, null, message):
    with pytest.raises(UserError, match=message):
        label_rows(rows, CheckpointOptions(num_classes=classes, null_class=null))


def test_a_null_class_that_contradicts_the_folder_is_refused(folder):
    with pytest.raises(UserError, match=r"null_class 0 was given, but the model's is 3"):
        load(folder, null_class=0)


def _changed(change):
    def spoil(folder, weights):
        tensors = load_file(weights)
        change(tensors)
        save_file(tensors, weights)

    return spoil


def _as_bin(folder, weights):
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _evil(folder, weights):
    torch.save({"conv_in.bias": Evil(folder / "made")}, weights.with_suffix(".bin"))
    weights.unlink()


def _config(name, **changes):
    def spoil(folder, weights):
        path = folder / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


SPOILED = {
    "no weights": (lambda f, w: w.unlink(), "unet cannot be loaded"),
    "a pickle that runs": (_evil, "unet cannot be loaded"),
    "text": (lambda f, w: w.write_text("hello"), "cannot be loaded"),
    "truncated": (lambda f, w: w.write_bytes(w.read_bytes()[:-50]), "cannot be loaded"),
    "a tensor less": (
        _changed(lambda t: t.pop("conv_in.bias")),
        r"has missing tensors \(conv_in.bias\)",
    ),
    "a tensor more": (_changed(lambda t: t.update(x=torch.zeros(1))), r"unexpected tensors \(x\)"),
    "a shape": (
        _changed(lambda t: t.update({"conv_in.bias": torch.zeros(3)})),
        "cannot be loaded.*conv_in.bias",
    ),
    "no scheduler": (
        lambda f, w: (f / "scheduler" / "scheduler_config.json").unlink(),
        "scheduler_config.json is missing",
    ),
    "no JSON": (
        lambda f, w: (f / "unet" / "config.json").write_text("{"),
        "config.json cannot be read",
    ),
    "no network": (lambda f, w: (f / "unet").rename(f / "other"), "config.json cannot be read"),
    "another class": (
        _config("unet", _class_name="UNet3DConditionModel"),
        "names the class 'UNet3DConditionModel', expected UNet2DModel",
    ),
    "another network": (_config("unet", _class_name="VQModel"), "names the class 'VQModel'"),
    "another family": (
        _config("unet", _class_name="UNet2DConditionModel"),
        "unet has unexpected tensors",
    ),
    "no size": (_config("unet", sample_size=None), "give image_size"),
    "more conditions": (_config("unet", class_embed_type="projection"), "more than a timestep"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_folders_are_refused_in_one_line(folder, weights, kind):
    spoil, message = SPOILED[kind]
    spoil(folder, weights)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (folder / "made").exists()


def test_weights_as_bin_are_read_as_tensors(folder, weights):
    before = load(folder)[0].network.state_dict()
    _as_bin(folder, weights)
    after = load(folder)[0].network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_half_precision_weights_are_loaded_if_there_are_no_others(folder, weights):
    network = tiny_unet(1, 8, 3, seed=5).half()
    network.save_pretrained(folder / "unet", variant="fp16")
    plain = load(folder)[0].network.state_dict()
    assert torch.equal(plain["conv_in.weight"], tiny_unet(1, 8, 3).conv_in.weight)
    weights.unlink()
    half = load(folder)[0].network.state_dict()
    assert torch.equal(half["conv_in.weight"], network.conv_in.weight.float())


def test_a_unet_takes_other_image_sizes_and_a_dit_does_not(tmp_path):
    save(tmp_path / "unet", tiny_unet(1, 8, 3))
    save(tmp_path / "dit", dit())
    larger = load_diffusion(tmp_path / "unet", CheckpointOptions(image_size=12, num_classes=3))
    assert larger.network.config["sample_size"] == larger.image_size == 12
    assert load_diffusion(tmp_path / "dit", CheckpointOptions(image_size=8)).image_size == 8
    with pytest.raises(UserError, match="this model cannot take image_size 16: expected 8"):
        load_diffusion(tmp_path / "dit", CheckpointOptions(image_size=16))


def test_old_names_of_a_dit_are_read(tmp_path):
    save(tmp_path / "dit", dit())
    _config("transformer", _class_name="Transformer2DModel", use_linear_projection=False)(
        tmp_path / "dit", None
    )
    denoiser, spec = load(tmp_path / "dit")
    assert spec.network == "DiTTransformer2DModel"
    before = dit().state_dict()
    assert all(torch.equal(v, before[n]) for n, v in denoiser.network.state_dict().items())


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="absent does not exist: expected a checkpoint file, a diffusers"
    ):
        load(tmp_path / "absent")
