"""Diffusion models built from specs: which may be built, and what must fit together."""

import copy
import pickle

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models import modeling_utils
from diffusers.models.modeling_utils import get_parameter_dtype

from diffguard.denoisers.build import build_denoiser
from diffguard.denoisers.networks import module_class
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError
from tests.helpers.tiny_models import UNET

LINEAR = {"beta_schedule": "linear", "num_train_timesteps": 50, "prediction_type": "v_prediction"}


def test_a_denoiser_takes_everything_from_its_spec():
    spec = DiffusionSpec("UNet2DModel", UNET, LINEAR, 6, 3, 3, 3, fit="pad", antialias=False)
    denoiser = build_denoiser(spec)
    assert isinstance(denoiser, PixelDenoiser)
    assert (denoiser.num_classes, denoiser.null_class) == (3, 3)
    assert (denoiser.fit, denoiser.antialias) == ("pad", False)
    assert len(denoiser.schedule.alphas_cumprod) == 50
    state = denoiser.encode(torch.rand(2, 3, 6, 6))
    assert state.shape == (2, 1, 8, 8)
    t, y = torch.tensor([3, 40]), torch.tensor([0, 3])
    assert denoiser.predict_noise(state, t, y).shape == (2, 1, 8, 8)
    assert denoiser.decode(state).shape == (2, 3, 6, 6)


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ("UNet", {}, "'UNet' is not known, expected one of UNet2DModel"),
        ("UNet2DModel", {"down_block_types": ["NoSuchBlock"]}, "UNet2DModel cannot be built"),
        ("UNet2DModel", {"norm_num_groups": 3}, "UNet2DModel cannot be built"),
        ("UNet2DModel", {"layers_per_block": 100_000}, "layers_per_block must be at most 100, got"),
        ("UNet2DModel", {"block_out_channels": [0]}, "with an empty weight: check its sizes"),
    ],
)
def test_impossible_diffusion_models_are_refused(network, changes, message, recwarn):
    with pytest.raises(UserError, match=message) as caught:
        build_denoiser(DiffusionSpec(network, {**UNET, **changes}, LINEAR, 8, 1))
    assert "\n" not in str(caught.value)
    assert not recwarn.list


def test_a_network_that_fails_gives_one_line():
    denoiser = build_denoiser(DiffusionSpec("UNet2DModel", UNET, LINEAR, 8, 1, 3, 3))
    state, label = torch.zeros(1, 1, 8, 8), torch.tensor([9])
    with pytest.raises(UserError, match=r"fails on states of \(1, 8, 8\) \(index out of range"):
        denoiser.predict(state, torch.tensor([3]), label)


def test_only_listed_classes_of_diffusers_are_built():
    classes = ("DiTTransformer2DModel",)
    assert module_class(*classes, classes).__name__ == "DiTTransformer2DModel"
    with pytest.raises(UserError, match="'DiffusionPipeline' is not known"):
        module_class("DiffusionPipeline", classes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_call_does_not_search_all_modules_for_the_dtype(monkeypatch, dtype):
    denoiser = build_denoiser(DiffusionSpec("UNet2DModel", UNET, LINEAR, 8, 1, 3, 3))
    denoiser.cast(dtype)
    state, t, y = torch.zeros(8, 1, 8, 8), torch.full((8,), 3), torch.zeros(8, dtype=torch.int64)
    expected = UNet2DModel.forward(denoiser.network, state.to(dtype), t, y).sample
    assert denoiser.network.dtype == get_parameter_dtype(denoiser.network) == dtype
    monkeypatch.setattr(modeling_utils, "get_parameter_dtype", None)
    assert torch.equal(denoiser.network(state.to(dtype), t, y).sample, expected)


def test_a_network_can_be_pickled_and_copied():
    """Spawned processes receive their modules by pickle."""
    network = build_denoiser(DiffusionSpec("UNet2DModel", UNET, LINEAR, 8, 1, 3, 3)).network
    state, t, y = torch.zeros(8, 1, 8, 8), torch.full((8,), 3), torch.zeros(8, dtype=torch.int64)
    expected = network(state, t, y).sample
    for again in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert type(again) is type(network)
        assert torch.equal(again(state, t, y).sample, expected)
