"""Stable Diffusion: prompts of the classes, and damaged or malicious text encoders."""

import json
import os
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch

from diffguard.denoisers.formats import load_denoiser
from diffguard.errors import UserError
from tests.helpers.tiny_families import CLASSES, options_of


@torch.no_grad()
def test_labels_of_stable_diffusion_are_prompts(models):
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = models("stable_diffusion")
    denoiser = load_denoiser(folder, options_of("stable_diffusion"))
    assert (denoiser.num_classes, denoiser.null_class) == (CLASSES, CLASSES)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    texts = ["a photo of a cat", "a photo of a golden retriever", "a photo of a ox", ""]
    for row, text in zip(denoiser.context.table, texts, strict=True):
        tokens = tokenizer(text, padding="max_length", max_length=32, return_tensors="pt")
        torch.testing.assert_close(row, encoder(tokens.input_ids).last_hidden_state[0])
    other = replace(options_of("stable_diffusion"), prompt="{name}")
    assert not torch.equal(load_denoiser(folder, other).context.table, denoiser.context.table)
    with pytest.raises(UserError, match=r"lacks \{name\}"):
        load_denoiser(folder, replace(other, prompt="a cat"))
    with pytest.raises(UserError, match="expected a text encoder"):
        load_denoiser(folder)


def test_a_damaged_text_encoder_is_refused(models, tmp_path):
    folder = shutil.copytree(models("stable_diffusion"), tmp_path / "sd")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match="text encoder cannot be loaded") as caught:
        load_denoiser(folder, options_of("stable_diffusion"))
    assert "\n" not in str(caught.value)


def _edit_config(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


ABSURD = {
    "wide": ("more than its files hold", {"hidden_size": 4000}),
    "deep": ("more than", {"num_hidden_layers": 10**7}),
    "long": ("more than", {"max_position_embeddings": 10**9}),
    "negative": ("cannot be loaded", {"hidden_size": -4}),
    "of text": ("cannot be loaded", {"hidden_size": "wide"}),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_a_text_encoder_of_absurd_size_is_refused(models, tmp_path, kind):
    folder = shutil.copytree(models("stable_diffusion"), tmp_path / "sd")
    line, values = ABSURD[kind]
    _edit_config(folder / "text_encoder" / "config.json", **values)
    with pytest.raises(UserError, match=line) as caught:
        load_denoiser(folder, options_of("stable_diffusion"))
    assert "\n" not in str(caught.value)


def test_a_compressed_text_encoder_is_refused(models, tmp_path):
    folder = shutil.copytree(models("stable_diffusion"), tmp_path / "sd")
    (folder / "text_encoder" / "model.safetensors").unlink()
    with zipfile.ZipFile(
        folder / "text_encoder" / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED
    ) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10**6)
    with pytest.raises(UserError, match="compressed"):
        load_denoiser(folder, options_of("stable_diffusion"))


@pytest.mark.parametrize("part", ["unet/config.json", "text_encoder/config.json"])
def test_a_named_pipe_in_a_folder_is_refused(models, tmp_path, part):
    folder = shutil.copytree(models("stable_diffusion"), tmp_path / "sd")
    (folder / part).unlink()
    os.mkfifo(folder / part)
    with pytest.raises(UserError, match="regular file"):
        load_denoiser(folder, options_of("stable_diffusion"))
