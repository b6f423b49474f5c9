"""Converted checkpoints give the outputs of the original programs."""

import math

import pytest
import torch

from diffguard.denoisers.build import wrap_parts
from diffguard.denoisers.formats import convert_tensors, detect_family
from diffguard.denoisers.scheduler_config import schedule_from_config
from tests.helpers.checkpoint_files import SUFFIXES, Case, cases, folder, full_size, options_of
from tests.helpers.openood_networks import openood_network

CASES = cases()
DIFFUSION = [case for case in CASES if not case.is_classifier]
FULL_SIZE = full_size()
TOLERANCE = 1e-4


def ids(cases):
    return [case.name for case in cases]


def test_every_checkpoint_has_a_reference():
    assert CASES
    files = {path for path in folder().iterdir() if path.suffix in SUFFIXES}
    assert files <= {case.file for case in CASES}


@torch.no_grad()
def outputs(case: Case, dtype):
    """Name -> output of the converted network for each reference input."""
    arrays, tensors = case.arrays(), case.tensors()
    x = arrays["x"].to(dtype)
    if case.is_classifier:
        network = openood_network(tensors).to(dtype)
        features = []
        network.fc.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
        return {"logits": network(x), "features": features[0]}
    converted = convert_tensors(tensors, case.options())
    t, y = arrays["t"], arrays.get("y")
    if converted.autoencoder is None:
        network = converted.network.to(dtype)
        results = {"out": network(x, t, class_labels=y).sample}
        if converted.null_class is not None:
            null = torch.full_like(t, converted.null_class)
            results["out_null"] = network(x, t, class_labels=null).sample
        return results
    denoiser = wrap_parts(converted, converted.spec()).to(dtype)
    z, codes, context = (arrays[key].to(dtype) for key in ("z", "z_dec", "context4"))
    null = torch.full_like(t, converted.null_class)
    eps, eps_null = denoiser.predict_noise(z, t, y), denoiser.predict_noise(z, t, null)
    return {
        "eps": eps,
        "eps_null": eps_null,
        "eps_guided_s3": eps_null + 3 * (eps - eps_null),
        "eps_ctx4": converted.network(z, t, encoder_hidden_states=context).sample,
        "enc": denoiser.encode((x + 1) / 2),
        "dec": denoiser.preview(codes) * 2 - 1,
        "dec_noquant": converted.autoencoder.decode(codes, force_not_quantize=True).sample,
    }


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_converted_network_gives_the_original_output(case):
    arrays = case.arrays()
    inputs = {"x", "t", "y", "z", "z_dec", "context4", "img_uint8"}
    expected = {k: v for k, v in arrays.items() if k not in inputs and not k.endswith("_f64")}
    results = outputs(case, torch.float32)
    assert set(expected) <= set(results), "a reference output was not compared"
    assert expected
    for name, value in expected.items():
        assert results[name].shape == value.shape
        assert (results[name] - value).abs().max() < TOLERANCE, name


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_converted_network_gives_the_original_output_in_double_precision(case):
    """Without rounding the agreement is far closer than any wrong detail would leave it."""
    references = {k: v for k, v in case.arrays().items() if k.endswith("_f64")}
    if not references:
        return
    results = outputs(case, torch.float64)
    for name, value in references.items():
        difference = results[name.removesuffix("_f64")][: len(value)] - value
        assert difference.abs().max() < 1e-6, name


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_every_value_is_used_once(case):
    """Some tensors cannot influence the stored outputs; their values must arrive all the same."""
    tensors = case.tensors()
    if case.is_classifier:
        networks = [openood_network(tensors)]
    else:
        converted = convert_tensors(tensors, case.options())
        networks = [converted.network, converted.autoencoder, converted.context]
    arrived = [v for n in networks if n is not None for v in n.state_dict().values()]
    buffers = {n for n, v in tensors.items() if v.ndim == 1 and "." not in n}
    weights = [v for n, v in tensors.items() if n not in buffers]
    sort = lambda values: torch.cat([v.flatten().float() for v in values]).sort().values  # noqa: E731
    assert torch.equal(sort(arrived), sort(weights))


@pytest.mark.parametrize("case", DIFFUSION, ids=ids(DIFFUSION))
def test_schedule_and_labels_are_those_of_the_original(case):
    info = case.info
    converted = convert_tensors(case.tensors(), case.options())
    assert converted.null_class == info["null_class"]
    schedule = schedule_from_config(converted.scheduler)
    expected = info["expected_noise_schedule"]
    assert len(schedule) == expected["num_train_timesteps"]
    assert schedule.prediction_type == expected["prediction_type"]
    for t, value in expected["alphas_cumprod_at"].items():
        assert math.isclose(schedule.alphas_cumprod[int(t)].item(), value, rel_tol=1e-6)
    tables = ("label_emb.weight", "cond_stage_model.embedding.weight")
    rows = next((v.shape[0] for n, v in case.tensors().items() if n in tables), None)
    has_null = converted.null_class is not None
    assert converted.num_classes == (None if rows is None else rows - has_null)


@pytest.mark.parametrize(("title", "entry"), FULL_SIZE, ids=[title for title, _ in FULL_SIZE])
def test_full_size_networks_take_every_tensor(title, entry):
    """Published configurations: each name consumed, each tensor filled, no memory taken."""
    tensors = {n: torch.empty(s, device="meta") for n, s in entry["tensors"].items()}
    settings = entry["hyper_parameters"]
    if set(settings) <= {"widths", "num_classes"}:
        networks, elsewhere = [openood_network(tensors)], 0
    else:
        converted = convert_tensors(tensors, options_of(settings))
        networks = [converted.network, converted.autoencoder, converted.context]
        elsewhere = sum(v.numel() for n, v in tensors.items() if "." not in n)
    values = [v for n in networks if n is not None for v in n.state_dict().values()]
    assert all(v.is_meta for v in values)
    assert sum(v.numel() for v in values) + elsewhere == entry["num_elements"]


def test_full_size_lists_cover_every_family():
    assert {detect_family(dict.fromkeys(e["tensors"])) for _, e in FULL_SIZE} == {
        "adm", "ldm", "ddpm", "classifier"
    }  # fmt: skip
