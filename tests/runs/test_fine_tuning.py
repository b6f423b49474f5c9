"""Fine-tuning of pixel and latent models with train.py: all weights, or LoRA."""

import copy

import pytest
import torch
from safetensors.torch import load_file

import train
from diffguard.checkpoint.file import read_checkpoint
from diffguard.denoisers.formats import CheckpointOptions, load_denoiser
from diffguard.denoisers.lora import add_lora, merge_lora
from diffguard.errors import UserError
from diffguard.training.settings import DiffusionTraining
from lightning_modules.diffusion import DiffusionModule
from tests.helpers.tiny_families import CLASSES, write_folder, write_stable_diffusion
from tests.helpers.tiny_project import write_config
from tests.helpers.tiny_training import SIDE, CrashError, images_of_three_classes

NAMES = ("dots", "left", "right")


def write(name, folder):
    return (
        write_stable_diffusion(folder) if name == "stable_diffusion" else write_folder(name, folder)
    )


def load(path, **use):
    return load_denoiser(path, CheckpointOptions(num_classes=CLASSES, class_names=NAMES), **use)


def one_step(module):
    """Make one training step; return the names of the weights that changed."""
    before = copy.deepcopy(dict(module.denoiser.named_parameters()))
    module.log_mean = lambda *_: None
    items = [images_of_three_classes(8)[position] for position in range(8)]
    batch = {
        "image": torch.stack([item["image"] for item in items]),
        "label": torch.arange(8) % CLASSES,
    }
    module.training_step(batch, 0).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad.sign()
    module.ema.update(module.denoiser, 0)
    now = module.denoiser.named_parameters()
    return {name for name, value in now if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("unet_classes", {"network"}),
        ("latent_dit_kl", {"network"}),
        ("latent_context_vq", {"network", "context"}),
        ("stable_diffusion", {"network"}),
    ],
)
def test_only_the_chosen_weights_are_trained(tmp_path, name, trained):
    denoiser = load(write(name, tmp_path / name), image_size=SIDE)
    module = DiffusionModule(denoiser, DiffusionTraining(label_dropout=0.5))
    changed = one_step(module)
    assert {name.split(".")[0] for name in changed} == trained
    # Weights that are not trained are shared with the averaged model.
    ours = dict(denoiser.named_parameters())
    for key, weights in module.ema.module.named_parameters():
        shared = weights.data_ptr() == ours[key].data_ptr()
        assert shared == (key.split(".")[0] not in trained), key


def test_lora_trains_adapters_alone_and_merges_into_the_same_model(tmp_path):
    denoiser = load(write("latent_dit_kl", tmp_path / "dit"), image_size=SIDE)
    z, t, y = torch.randn(2, 4, 8, 8), torch.tensor([5, 700]), torch.tensor([0, CLASSES])
    with torch.no_grad():
        plain = denoiser.predict_noise(z, t, y)
        add_lora(denoiser, rank=2, alpha=4.0)
        # A new adapter has no effect.
        torch.testing.assert_close(denoiser.predict_noise(z, t, y), plain)
    module = DiffusionModule(denoiser)
    changed = one_step(module)
    assert changed
    assert all(".lora_" in name for name in changed)
    one_step(module)
    denoiser.eval()
    with torch.no_grad():
        adapted = denoiser.predict_noise(z, t, y)
        assert not torch.allclose(adapted, plain, atol=1e-4)
        merge_lora(denoiser)
        torch.testing.assert_close(denoiser.predict_noise(z, t, y), adapted, rtol=1e-4, atol=1e-5)
    fresh = load(tmp_path / "dit")
    assert set(denoiser.state_dict()) == set(fresh.state_dict())


@pytest.fixture
def start(tmp_path, data_root, run_folder, monkeypatch):
    def run(folder, model, *, trainer=None, **diffusion):
        config = write_config(
            tmp_path / "tiny.yaml",
            data_root,
            diffusion={"finetune": str(model), "lr": 0.01, "kwargs": {}, **diffusion},
            classifier={"ckpt": str(run_folder / "classifier" / "classifier.safetensors")},
            trainer=trainer or {},
        )
        return train.main(["--config", str(config), "--run_dir", str(tmp_path / folder)])

    return run


def state(folder):
    return load_file(next(folder.rglob("diffusion_pytorch_model.safetensors")))


def test_fine_tuning_of_all_weights_gives_a_loadable_folder(tmp_path, start):
    from diffusers import DDPMPipeline

    model = write("unet_classes", tmp_path / "model")
    assert (
        start("run", model, trainer={"accumulate_grad_batches": 2, "precision": "bf16-mixed"}) == 0
    )
    tuned = tmp_path / "run" / "diffusion"
    before, after = state(model), state(tuned)
    assert before.keys() == after.keys()
    assert not torch.equal(before["conv_in.weight"], after["conv_in.weight"])
    assert DDPMPipeline.from_pretrained(tuned).unet.config.sample_size == 8
    assert (tmp_path / "run" / "detector.ckpt").is_file()


def test_lora_writes_adapters_and_a_merged_folder(tmp_path, start):
    from peft import PeftConfig

    model = write("stable_diffusion", tmp_path / "model")
    assert start("run", model, lora_rank=2) == 0
    run = tmp_path / "run"
    adapters = load_file(run / "diffusion_lora" / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapters)
    assert PeftConfig.from_pretrained(str(run / "diffusion_lora")).r == 2
    before, after = state(model / "unet"), state(run / "diffusion" / "unet")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".to_" in name for name in changed)
    # The folder includes the text encoder, so it can be used with other classes.
    other = CheckpointOptions(num_classes=2, class_names=("one", "two"))
    (run / "diffusion" / "class_context" / "model.safetensors").unlink()
    (run / "diffusion" / "diffguard.json").unlink()
    assert load_denoiser(run / "diffusion", other).num_classes == 2
    assert read_checkpoint(run / "detector.ckpt")["diffusion"]["reference"] is None


def test_an_interrupted_fine_tuning_resumes_to_the_same_weights(tmp_path, start, monkeypatch):
    model = write("latent_dit_kl", tmp_path / "model")
    options = {"lora_rank": 2, "max_epochs": 3, "trainer": {"accumulate_grad_batches": 2}}
    assert start("whole", model, **options) == 0
    plain = DiffusionModule.training_step

    def killed(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise CrashError
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", killed)
    with pytest.raises(CrashError):
        start("cut", model, **options)
    monkeypatch.setattr(DiffusionModule, "training_step", plain)
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0
    whole, cut = (
        state(tmp_path / "whole" / "diffusion" / "transformer"),
        state(tmp_path / "cut" / "diffusion" / "transformer"),
    )
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    weights = torch.load(tmp_path / "cut" / "checkpoints" / "diffusion" / "last.ckpt")["state_dict"]
    assert weights
    assert not [name for name in weights if "lora_" not in name and name != "weights"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 2, "lora_targets": ["nothing"]}, "is named nothing: set diffusion.lora_t"),
        ({"lora_rank": -1}, "diffusion.lora_rank must be at least 0, got -1"),
        ({"lora_rank": 2, "finetune": None}, "name it in diffusion.finetune"),
        ({"finetune": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(tmp_path, start, changes, message):
    model = write("unet_classes", tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        start("run", model, **changes)
    assert "\n" not in str(caught.value)
