"""The code, options and figures of docs/diffusion-models.md."""

import re
from dataclasses import fields

import torch

from diffguard.denoisers.formats import convert_tensors
from diffguard.denoisers.networks import module_class
from diffguard.diffusion.denoiser import Denoiser
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.config import DiffusionConfig, ModelConfig
from tests.helpers.checkpoint_files import full_size, options_of
from tests.helpers.pages import PAGE
from tests.helpers.published import DIT_XL_2


def test_the_example_of_a_custom_denoiser_runs(capsys):
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert isinstance(names["detector"].denoiser, Denoiser)
    # The example detects OOD images better than chance.
    assert 0.6 < float(capsys.readouterr().out.split()[-1]) <= 1.0


def test_options_on_the_page_exist():
    options = {f"diffusion.model.{f.name}" for f in fields(ModelConfig)}
    options |= {f"diffusion.{f.name}" for f in fields(DiffusionConfig)}
    options |= {f"trainer.{f.name}" for f in fields(TrainerConfig)}
    named = set(re.findall(r"--((?:diffusion|trainer)\.[\w.]+)", PAGE))
    assert named
    assert named <= options


def test_sizes_on_the_page_match_the_published_models():
    networks = {}
    for title, entry in full_size():
        if "classifier" in title or "OpenOOD" in title or "resnet" in title:
            continue
        tensors = {n: torch.empty(s, device="meta") for n, s in entry["tensors"].items()}
        parts = convert_tensors(tensors, options_of(entry["hyper_parameters"]))
        networks[title.split()[0].removesuffix(".pt")] = parts.network
        if title == "DiffOOD ddim_cifar10_cond":
            networks["DiffOOD CIFAR-10"] = parts.network
    with torch.device("meta"):
        name = "DiTTransformer2DModel"
        networks["DiT-XL/2"] = module_class(name, (name,)).from_config(DIT_XL_2)
    rows = {
        "guided-diffusion, 256×256, class-conditional": "256x256_diffusion",
        "latent diffusion `cin256-v2`": "cin256-v2",
        "DiT-XL/2, 256×256, in diffusers' layout": "DiT-XL/2",
        "DiffOOD CIFAR-10, conditional": "DiffOOD CIFAR-10",
    }
    for label, key in rows.items():
        network = networks[key]
        count = sum(t.numel() for t in [*network.parameters(), *network.buffers()])
        assert f"| {label} | {count:,} | {round(2 * count / 2**20):,} MiB |" in PAGE
