"""What bounds the memory of a latent model's autoencoder, and how often it runs."""

import weakref
from dataclasses import replace

import pytest
import torch

from diffguard.engine.recipe import Recipe
from diffguard.scores.build import build_distance
from diffguard.scores.distances import Views
from tests.helpers.engine_runs import classifier_guidance_of, jobs_of, run
from tests.helpers.tiny_latent import dit, wrap
from tests.helpers.tiny_models import sound_plan, tiny_classifier


def most_kept(call):
    """Bytes that a graph keeps at once, at most, while `call` runs; and what it gives."""
    alive, most = {}, [0]

    def pack(tensor):
        # Saved views share their storage, and weights are no part of the graph's memory.
        storage = tensor.untyped_storage()
        if tensor.is_leaf and tensor.requires_grad:
            return tensor
        holder = Kept(tensor)
        alive.setdefault(storage.data_ptr(), [storage.nbytes(), 0])[1] += 1
        weakref.finalize(holder, release, storage.data_ptr())
        most[0] = max(most[0], sum(size for size, _ in alive.values()))
        return holder

    def release(pointer):
        alive[pointer][1] -= 1
        if not alive[pointer][1]:
            del alive[pointer]

    def unpack(kept):
        return kept.tensor if isinstance(kept, Kept) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        result = call()
    return most[0], result


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("crops", [0, 2])
def test_guidance_keeps_the_graph_of_one_slice(crops):
    classifier = tiny_classifier().eval()

    def gradient(batch, slice_size):
        denoiser = wrap(dit(), slice_size=slice_size).eval().requires_grad_(requires_grad=False)
        guidance = classifier_guidance_of(scale=3.0, crops=crops, crop_size=8 if crops else None)
        guidance.classify = lambda images, t: classifier(images)
        generator = torch.Generator().manual_seed(3)
        x, noise = torch.randn(2, batch, 4, 8, 8, generator=generator)
        return most_kept(
            lambda: guidance.gradient(
                denoiser, x, noise, torch.full((batch,), 500), torch.full((batch,), 0.5),
                labels=torch.arange(batch) % 5, keys=[("set", str(n)) for n in range(batch)],
                steps=[0] * batch, batch_size=batch,
            )
        )  # fmt: skip

    small, _ = gradient(8, 8)
    large, in_slices = gradient(32, 8)
    unbounded, at_once = gradient(32, 32)
    assert unbounded > 3 * small
    # The classifier's own graph still grows with the batch; the decoder's outweighs it.
    assert large < 1.7 * small
    torch.testing.assert_close(in_slices, at_once, rtol=1e-4, atol=1e-6)


def test_early_stop_decodes_an_image_once():
    denoiser, plan = wrap(dit()).eval(), sound_plan(6)
    decoded = []
    decode = denoiser.autoencoder.decode
    denoiser.autoencoder.decode = lambda z: (decoded.append(len(z)), decode(z))[1]
    psnr = build_distance("psnr")

    def quality(state, image):
        return psnr.quality(Views(state), Views(image))

    recipe = Recipe(plan, max_steps=4, qualities=[(quality, -100.0)])
    jobs = [replace(job, image=job.image[:, :, :8], label=0) for job in jobs_of(8, plan)]
    run(denoiser, recipe, jobs)
    # The image, each of four states, and the result.
    assert sum(decoded) == 8 * (1 + 4 + 1)


def test_autocast_leaves_an_autoencoder_alone_that_overflows_in_float16():
    denoiser = wrap(dit()).eval()
    images = torch.rand(2, 3, 12, 12)
    assert denoiser.autoencoder.config.force_upcast
    with torch.no_grad():
        plain = denoiser.encode(images)
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(denoiser.encode(images), plain)
            assert torch.equal(denoiser.decode(plain), denoiser.decode(plain.clone()))
            half = denoiser.decode(plain)
        assert torch.equal(denoiser.decode(plain), half)
        denoiser.autoencoder.register_to_config(force_upcast=False)
        with torch.autocast("cpu", torch.float16):
            assert not torch.equal(denoiser.encode(images), plain)
