"""Stable Diffusion's label condition: a prompt made from the class's name, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffguard.errors import UserError, missing_package, reason_of
from diffguard.storage.json_files import read_json
from diffguard.storage.network_files import check_files

TEXT_ENCODER = "text_encoder"
TOKENIZER = "tokenizer"
_AT_ONCE = 8


def make_prompts(class_names: Sequence[str], prompt: str) -> list[str]:
    """The prompt of each class, followed by the empty one that means "no label".

    Args:
        class_names: Names of the classes; an underscore in a name is a space.
        prompt: Template with `{name}` in it.

    Raises:
        UserError: If the template lacks `{name}`, so that all classes would have one prompt.
    """
    if "{name}" not in prompt:
        raise UserError(
            f"diffusion.prompt {prompt!r} lacks {{name}}, the place of a class's name: "
            'expected a template such as "a photo of a {name}"'
        )
    return [*(prompt.replace("{name}", name.replace("_", " ")) for name in class_names), ""]


@torch.no_grad()
def encode_prompts(folder: Path, class_names: Sequence[str], prompt: str) -> Tensor:
    """Run the text encoder of a folder over the prompts of all classes.

    Args:
        folder: A folder of diffusers with `text_encoder/` and `tokenizer/`.
        class_names: Names of the K classes.
        prompt: Template with `{name}` in it.

    Returns:
        `(K + 1, tokens, width)` float32; the last row belongs to the empty prompt.

    Raises:
        UserError: If transformers is not installed, or the folder's parts cannot be loaded.
    """
    texts = make_prompts(class_names, prompt)
    try:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(missing_package("a model with a text encoder", "transformers")) from error
    logging.disable_progress_bar()
    part = folder / TEXT_ENCODER
    try:
        config = read_json(part / "config.json", dict[str, Any])
    except FileNotFoundError:
        raise UserError(f"{part} has no config.json: is it complete?") from None
    files = [path for path in part.iterdir() if path.suffix in (".safetensors", ".bin")]
    check_files(
        lambda: CLIPTextModel(CLIPTextConfig.from_dict(config)),
        [path for path in files if path.is_file()],
        "the text encoder",
    )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
        loaded: Any = CLIPTextModel.from_pretrained(
            folder / TEXT_ENCODER,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        # Damaged weights and vocabularies raise many types.
        raise UserError(
            f"the text encoder cannot be loaded ({reason_of(error)}): is it complete?"
        ) from error
    encoder, report = loaded
    if report["missing_keys"]:
        first = sorted(report["missing_keys"])[0]
        raise UserError(f"{TEXT_ENCODER} has missing tensors ({first}): is it complete?")
    encoder.eval()
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return torch.cat([encoder(part).last_hidden_state for part in tokens.split(_AT_ONCE)])
