"""Edits by a tiny InstructPix2Pix with random weights."""

import json

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionInstructPix2PixPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from diffguard.augment.instruct import InstructEditor
from diffguard.augment.settings import AugmentSettings, InstructSettings
from diffguard.errors import UserError
from tests.helpers.tiny_families import write_stable_diffusion
from tests.helpers.tiny_latent import kl, unet


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    parts = write_stable_diffusion(tmp_path_factory.mktemp("parts"))
    network = unet(
        in_channels=8,
        out_channels=4,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        num_class_embeds=None,
    )
    pipeline = StableDiffusionInstructPix2PixPipeline(
        kl(),
        CLIPTextModel.from_pretrained(parts / "text_encoder"),
        CLIPTokenizer.from_pretrained(parts / "tokenizer"),
        network,
        PNDMScheduler.from_pretrained(parts / "scheduler", skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("instruct")
    pipeline.save_pretrained(folder)
    return str(folder)


def editor(weights, **changes):
    settings = InstructSettings(weights=weights, side=16, steps=2, **changes)
    return InstructEditor(settings, 8, 0, torch.device("cpu"))


IMAGES = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_an_edit_depends_on_the_image_and_the_attempt_alone(weights):
    editing = editor(weights)
    edits = editing.edit(IMAGES, [0, 1, 2], 0)
    assert edits.shape == IMAGES.shape
    assert 0 <= edits.min() <= edits.max() <= 1
    assert torch.equal(editing.edit(IMAGES[2:], [0], 0)[0], edits[2])
    assert not torch.equal(editing.edit(IMAGES, [0, 1, 2], 1), edits)
    assert (editing.passes(), editing.passes(most_steps=1)) == (6, 3)
    assert not torch.equal(editing.edit(IMAGES, [0, 1, 2], 0, most_steps=1), edits)
    assert len(editing.networks) == 3
    assert {"unet", "vae", "text_encoder", "scheduler", "vocabulary"} == set(editing.configs)
    json.dumps(editing.configs)


def test_the_prompt_changes_the_edit(weights):
    edits = [editor(weights, prompts=[p]).edit(IMAGES, [0] * 3, 0) for p in ("snow", "mosaic")]
    assert not torch.equal(*edits)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as a pipeline of InstructPix2Pix"):
        editor(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "name"),
    [({"prompts": []}, "prompts"), ({"side": 20}, "side"), ({"image_scale": 0.5}, "image_scale")],
)
def test_values_out_of_range_are_named(values, name):
    with pytest.raises(UserError, match=f"augment.instruct.{name} must be"):
        InstructSettings(**values)


def test_options_of_the_other_editor_are_refused():
    with pytest.raises(UserError, match=r"augment\.depth 0\.2 has no effect here"):
        AugmentSettings(instruct=InstructSettings(weights="a/b"), depth=0.2)
    with pytest.raises(UserError, match=r"augment\.instruct\.steps 5 has no effect here"):
        AugmentSettings(instruct=InstructSettings(steps=5))
