"""Edits by InstructPix2Pix (Brooks et al., 2023), which follows a prompt such as "snowy"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from torch import Tensor, nn

from diffguard.augment.settings import InstructSettings
from diffguard.batching import padded
from diffguard.denoisers.formats.hub import local_folder
from diffguard.denoisers.parts import plain_config
from diffguard.errors import UserError, reason_of
from diffguard.images import convert_channels, pixel_key, resize_to
from diffguard.randomness import image_generator


class InstructEditor:
    """Edits with a pipeline of InstructPix2Pix.

    The prompt and the noise of an edit depend on the seed, the image and the attempt alone.

    Args:
        settings: The settings, with weights.
        batch_size: Images of every call.
        seed: The seed.
        device: The device.

    Attributes:
        networks: The networks of the pipeline.
        configs: What the edits depend on apart from weights and settings, as plain values.

    Raises:
        UserError: If the pipeline cannot be loaded.
    """

    def __init__(
        self, settings: InstructSettings, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.settings, self.batch_size, self.seed = settings, batch_size, seed
        # diffusers does not declare `to` and the call for type checkers.
        pipeline: Any = _load(str(settings.weights))
        self._pipeline = pipeline.to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        parts = (self._pipeline.unet, self._pipeline.vae, self._pipeline.text_encoder)
        self.networks: list[nn.Module] = list(parts)
        vocabulary = json.dumps(self._pipeline.tokenizer.get_vocab(), sort_keys=True)
        self.configs: dict[str, Any] = {
            "unet": plain_config(self._pipeline.unet.config),
            "vae": plain_config(self._pipeline.vae.config),
            "text_encoder": plain_config(self._pipeline.text_encoder.config.to_dict()),
            "scheduler": plain_config(self._pipeline.scheduler.config),
            "vocabulary": sha256(vocabulary.encode()).hexdigest(),
        }

    def passes(self, most_steps: int | None = None) -> int:
        """Network passes of an edit: with both conditions, with the image, and with none."""
        return 3 * self._steps(most_steps)

    @torch.no_grad()
    def edit(
        self,
        images: Tensor,
        labels: Sequence[int],  # noqa: ARG002
        attempt: int,
        *,
        most_steps: int | None = None,
    ) -> Tensor:
        """Edit images, see `Editor`; the label is not used."""
        steps = self._steps(most_steps)
        edits = [self._edit(rows, attempt, steps) for rows in images.split(self.batch_size)]
        return torch.cat(edits)

    def _steps(self, most_steps: int | None) -> int:
        steps = self.settings.steps
        return steps if most_steps is None else min(steps, most_steps)

    def _edit(self, images: Tensor, attempt: int, steps: int) -> Tensor:
        rows = padded(images, self.batch_size)
        generators = [
            image_generator(self.seed, pixel_key(row), "instruct", attempt) for row in rows
        ]
        choices = [
            int(torch.randint(len(self.settings.prompts), (), generator=generator))
            for generator in generators
        ]
        side = self.settings.side
        output = self._pipeline(
            prompt=[self.settings.prompts[choice] for choice in choices],
            image=resize_to(convert_channels(rows, 3), (side, side)).clamp(0, 1),
            num_inference_steps=steps,
            guidance_scale=self.settings.scale,
            image_guidance_scale=self.settings.image_scale,
            generator=generators,
            output_type="pt",
        ).images
        small = resize_to(output[: len(images)], (images.shape[2], images.shape[3])).clamp(0, 1)
        return convert_channels(small, images.shape[1]).to(images)


def _load(name: str) -> StableDiffusionInstructPix2PixPipeline:
    folder = local_folder(name)
    try:
        return StableDiffusionInstructPix2PixPipeline.from_pretrained(
            folder,
            safety_checker=None,
            requires_safety_checker=False,
            feature_extractor=None,
            image_encoder=None,
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:
        # diffusers and transformers raise many types for a folder that is not such a pipeline.
        raise UserError(
            f"augment.instruct.weights {name} cannot be loaded as a pipeline of InstructPix2Pix "
            f"({reason_of(error)}): name a folder or hub id such as timbrooks/instruct-pix2pix"
        ) from error
