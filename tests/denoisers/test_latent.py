import diffusers
import pytest
import torch

from diffguard.denoisers.context import ClassContext
from diffguard.denoisers.formats import CheckpointOptions, load_denoiser, load_diffusion
from diffguard.denoisers.formats.options import linear_schedule
from diffguard.denoisers.formats.save import save_folder
from diffguard.denoisers.parts import DiffusionParts
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.errors import UserError
from tests.helpers.tiny_latent import CLASSES, dit, kl, unet, wrap


@pytest.mark.parametrize("build", [dit, unet])
@torch.no_grad()
def test_a_latent_model_encodes_decodes_and_predicts_noise_as_a_denoiser(build):
    denoiser = wrap(build())
    assert isinstance(denoiser, Denoiser)
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    z = denoiser.encode(images)
    assert z.shape == (3, 4, 8, 8)
    assert torch.equal(z, denoiser.encode(images)), "encoding must be deterministic"
    decoded = denoiser.decode(z)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0.0
    assert decoded.max() <= 1.0
    assert denoiser.preview(z).shape == (3, 3, 16, 16)
    t = torch.tensor([0, 500, 999])
    eps = denoiser.predict_noise(z, t, torch.tensor([0, 1, 2]))
    assert eps.shape == z.shape
    null = denoiser.predict_noise(z, t, torch.full((3,), CLASSES))
    assert not torch.equal(eps, null)
    alone = denoiser.predict_noise(z[1:2], t[1:2], torch.tensor([1]))
    torch.testing.assert_close(alone, eps[1:2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_latents_are_the_scaled_mode():
    denoiser = wrap(dit())
    images = torch.rand(2, 3, 16, 16)
    mode = denoiser.autoencoder.encode(images * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(denoiser.encode(images), 0.5 * mode)
    expected = denoiser.autoencoder.decode(mode).sample
    torch.testing.assert_close(denoiser.preview(0.5 * mode) * 2 - 1, expected)


@torch.no_grad()
def test_slices_do_not_change_the_result():
    images = torch.rand(3, 3, 12, 12)
    single, all_at_once = wrap(dit(), slice_size=1), wrap(dit(), slice_size=3)
    z = single.encode(images)
    torch.testing.assert_close(z, all_at_once.encode(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single.decode(z), all_at_once.decode(z), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_label_is_a_row_of_the_context():
    cross = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
        "num_class_embeds": None,
    }
    table = torch.randn(CLASSES + 1, 2, 6)
    denoiser = wrap(unet(**cross), context=ClassContext(table))
    z, t, y = torch.randn(2, 4, 8, 8), torch.tensor([3, 4]), torch.tensor([0, CLASSES])
    expected = denoiser.network(z, t, encoder_hidden_states=table[y]).sample
    assert torch.equal(denoiser.predict_noise(z, t, y), expected)
    with pytest.raises(UserError, match="there is no context for its labels"):
        wrap(unet(**cross))
    with pytest.raises(UserError, match="has 5 channels and cross-attention takes 6"):
        wrap(unet(**cross), context=ClassContext(table[..., :5]))
    with pytest.raises(UserError, match="cross-attention takes none"):
        wrap(unet(), context=ClassContext(table))


@torch.no_grad()
def test_v_prediction_becomes_noise():
    schedule = NoiseSchedule.linear(prediction_type="v_prediction")
    plain, velocity = wrap(dit()), wrap(dit())
    velocity.schedule = schedule
    z, t, y = torch.randn(1, 4, 8, 8), torch.tensor([300]), torch.tensor([1])
    output = plain.predict_noise(z, t, y)
    alpha = schedule.alphas_cumprod[300].float()
    expected = alpha.sqrt() * output + (1 - alpha).sqrt() * z
    torch.testing.assert_close(velocity.predict_noise(z, t, y), expected)


def test_mask_is_brought_to_the_latents():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :8] = True
    placed = wrap(dit()).place_mask(mask)
    assert placed.shape == (1, 8, 8)
    assert placed[:, :4].all()
    assert not placed[:, 4:].any()


def test_a_network_with_other_latents_is_refused():
    with pytest.raises(UserError, match="4 latent channels and the diffusion model takes 3"):
        wrap(dit(in_channels=3))


def write(folder, network, part, **further):
    network.save_pretrained(folder / part)
    kl().save_pretrained(folder / "vae")
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    return folder


@torch.no_grad()
def test_folders_of_diffusers_are_loaded(tmp_path):
    images, t = torch.rand(1, 3, 16, 16), torch.tensor([7])
    y = torch.tensor([2])
    for build, part, options in (
        (dit, "transformer", CheckpointOptions()),
        (unet, "unet", CheckpointOptions(num_classes=CLASSES)),
    ):
        denoiser = load_denoiser(write(tmp_path / part, build(), part), options)
        assert (denoiser.num_classes, denoiser.null_class) == (CLASSES, CLASSES)
        assert denoiser.image_size == 16
        expected = wrap(build())
        z = denoiser.encode(images)
        assert torch.equal(denoiser.predict_noise(z, t, y), expected.predict_noise(z, t, y))
    with pytest.raises(UserError, match="has 5 class embeddings: give num_classes"):
        load_denoiser(tmp_path / "unet")
    with pytest.raises(UserError, match="expected num_classes 5 or 4, got 9"):
        load_denoiser(tmp_path / "unet", CheckpointOptions(num_classes=9))
    with pytest.raises(UserError, match="knows 4 classes, expected 9"):
        load_denoiser(tmp_path / "transformer", CheckpointOptions(num_classes=9))
    with pytest.raises(UserError, match="cannot be padded"):
        load_denoiser(tmp_path / "transformer", fit="pad")


def test_damaged_folders_are_refused(tmp_path):
    folder = write(tmp_path / "model", dit(), "transformer")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    with pytest.raises(UserError, match="transformer cannot be loaded"):
        load_diffusion(folder)
    weights.write_bytes(content)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(UserError, match=r"scheduler_config\.json is missing"):
        load_diffusion(folder)
    (folder / "transformer" / "config.json").write_text('{"_class_name": "Popen"}')
    with pytest.raises(UserError, match="names the class 'Popen', expected UNet2DModel"):
        load_diffusion(folder)


def test_a_bare_model_folder_needs_image_size(tmp_path):
    network = diffusers.UNet2DModel(
        sample_size=None,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8,
    )
    network.save_pretrained(tmp_path)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="give image_size"):
        load_denoiser(tmp_path)
    denoiser = load_denoiser(tmp_path, CheckpointOptions(image_size=8), image_size=28)
    assert denoiser.num_classes is None
    assert denoiser.encode(torch.zeros(1, 3, 28, 28)).shape == (1, 3, 8, 8)


def test_saved_folder_is_read_by_diffusers(tmp_path):
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8,
    )
    converted = DiffusionParts("ddpm", network, linear_schedule(variance_type="fixed_large"), 8)
    save_folder(converted, tmp_path / "model")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.scheduler.config["variance_type"] == "fixed_large"
    state = network.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in pipeline.unet.state_dict().items())


def test_an_unreachable_hub_is_one_line(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="the hub did not provide it") as error:
        load_denoiser("owner/name")
    assert "\n" not in str(error.value)
