r"""DiffGuard for one image, as the paper describes it. Read this file first.

1. Invert the image, by DDIM or another solver, until a quality of the state falls below its
   threshold.
2. Synthesize from there, guided toward the label that the classifier predicted: by the mix
   $\epsilon_\varnothing + s\,(\epsilon_y - \epsilon_\varnothing)$ inside a mask, or by the
   gradient of the classifier.
3. Synthesize once more without guidance.

An in-distribution image comes back similar; an out-of-distribution image does not.
`engine.py` computes the same for a stream of images, in full batches.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.early_stop import should_stop
from diffguard.diffusion.guidance import classifier_free
from diffguard.diffusion.path import Path
from diffguard.diffusion.solver import Shown
from diffguard.engine.jobs import Job
from diffguard.engine.labels import network_labels
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe, Reconstruction


@torch.no_grad()
def reconstruct(denoiser: Denoiser, recipe: Recipe, job: Job) -> Reconstruction:
    """Reconstruct one image, one network pass at a time.

    Args:
        denoiser: The diffusion model.
        recipe: Timesteps, early stop and guidance.
        job: The image `(C, H, W)` in [0, 1], on the model's device, and its label.

    Returns:
        The guided reconstruction, and the unguided one if the recipe asks for it.

    Raises:
        UserError: If the image has no label and the model has classes but no null class.
    """
    noise = Noise(denoiser, job.label)
    inversion, stop = invert_until_stop(noise, recipe, job.image.unsqueeze(0))
    guided, unguided = synthesize_both(noise, recipe, job, inversion, stop)
    return Reconstruction(
        job=job,
        guided=denoiser.decode(guided)[0],
        unguided=None if unguided is None else denoiser.decode(unguided)[0],
        stop_index=stop,
        network_passes=noise.passes,
        latent=inversion.x[0],
        guided_state=guided[0],
        unguided_state=None if unguided is None else unguided[0],
    )


class Noise:
    """The noise that a diffusion model predicts for one image.

    Args:
        denoiser: The diffusion model.
        label: Class of the image; -1 for none.

    Attributes:
        passes: Network passes so far.
    """

    def __init__(self, denoiser: Denoiser, label: int) -> None:
        self.denoiser, self.label, self.passes = denoiser, label, 0

    def __call__(
        self, x: Tensor, t: Tensor, scale: float = 0.0, mask: Tensor | None = None
    ) -> Tensor:
        """Noise ε `(1, …)` of a state; scale 0 is unguided, 1 is the noise with label."""
        if scale == 0 or self.label < 0:
            return self._predict(x, t, sees_label=False)
        with_label = self._predict(x, t, sees_label=True)
        if scale == 1 and mask is None:
            return with_label
        return classifier_free(self._predict(x, t, sees_label=False), with_label, scale, mask)

    def _predict(self, x: Tensor, t: Tensor, *, sees_label: bool) -> Tensor:
        self.passes += 1
        labels = network_labels(self.denoiser, torch.tensor([self.label]), torch.tensor(sees_label))
        return self.denoiser.predict_noise(x, t, None if labels is None else labels.to(t)).to(x)


def invert_until_stop(noise: Noise, recipe: Recipe, image: Tensor) -> tuple[Path, int]:
    """Invert an image `(1, C, H, W)`; its path, and the index of the last step."""
    scale = {"null": 0.0, "label": 1.0, "guided": recipe.inversion_scale}[recipe.inversion]
    clean = noise.denoiser.encode(image)
    sampler = recipe.sampler
    path = Path(sampler.solver, sampler.plan, clean, sampler.clip)
    thresholds = [threshold for _, threshold in recipe.qualities]
    stop = -1
    for latent in path.invert(partial(noise, scale=scale), recipe.max_steps):
        stop += 1
        views = noise.denoiser.preview(latent), noise.denoiser.preview(clean)
        qualities = [quality(*views) for quality, _ in recipe.qualities]
        if qualities and should_stop(torch.stack(qualities), thresholds):
            break
    return path, stop


def synthesize_both(
    noise: Noise, recipe: Recipe, job: Job, inversion: Path, stop: int
) -> tuple[Tensor, Tensor | None]:
    """The guided and, if the recipe asks for it, the unguided final state of an image.

    Args:
        noise: The diffusion model's noise.
        recipe: Timesteps and guidance.
        job: The image.
        inversion: The path to the state at which inversion stopped.
        stop: Index of the last inversion step.
    """
    denoiser, guidance = noise.denoiser, recipe.guidance
    start = int(recipe.plan.start_index(torch.tensor(stop), recipe.extra_start, recipe.skip))
    mask = None if job.mask is None else denoiser.place_mask(job.mask.unsqueeze(0))
    if guidance is None or not recipe.guides(job.label, mask):
        *_, state = inversion.fork().synthesize(noise, start)
        return state, state if recipe.unguided else None
    if isinstance(guidance, ClassifierFree):
        mix = partial(noise, scale=guidance.scale, mask=mask)
        *_, guided = inversion.fork().synthesize(mix, start)
    else:

        def gradient(shown: Shown, eps: Tensor, i: int) -> Tensor:
            return guidance.gradient(
                denoiser, shown.x, eps, shown.t, shown.alpha, labels=torch.tensor([job.label]),
                keys=[job.key], steps=[start - i], batch_size=1,
            )  # fmt: skip

        *_, guided = inversion.fork().synthesize(noise, start, gradient)
    if not recipe.unguided:
        return guided, None
    *_, unguided = inversion.fork().synthesize(noise, start)
    return guided, unguided
