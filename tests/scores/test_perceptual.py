import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
import torchmetrics
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.image import dists as tm_dists
from torchmetrics.functional.image import lpips as tm_lpips

from diffguard.errors import UserError
from diffguard.scores import build
from diffguard.scores.build import build_distance
from diffguard.scores.formulas import texture_structure
from diffguard.scores.perceptual_weights import load_features

FILES = {"vgg16": "vgg16-397923af.pth", "alexnet": "alexnet-owt-7be5be79.pth"}


def random_features(net: str) -> nn.Sequential:
    """The feature layers of a torchvision network with random weights that keep the scale."""
    with torch.device("meta"):
        layers = getattr(torchvision.models, net)(weights=None).features
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in layers.state_dict().items():
        scale = 0.1 if value.ndim == 1 else (2.0 / value[0].numel()) ** 0.5
        state[key] = torch.randn(value.shape, generator=generator) * scale
    layers.load_state_dict(state, assign=True)
    return layers.requires_grad_(False)


@pytest.fixture(scope="module")
def features():
    return {net: random_features(net) for net in FILES}


@pytest.fixture(scope="module")
def states(features):
    return {net: layers.state_dict() for net, layers in features.items()}


@pytest.fixture(scope="module")
def dists(states):
    return build_distance("dists", weights=states["vgg16"])


def pair(side: int, channels: int = 3, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    a = torch.rand(n, channels, side, side, generator=generator)
    b = 0.7 * a + 0.2 * torch.randn(a.shape, generator=generator)
    return a, b.clamp(0, 1)


def shipped(name: str) -> dict[str, torch.Tensor]:
    folder = Path(torchmetrics.__file__).parent / "functional" / "image"
    return torch.load(folder / name, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("side", [28, 33])
def test_dists_matches_torchmetrics(monkeypatch, features, dists, side):
    monkeypatch.setattr(
        tm_dists, "vgg16", lambda weights: nn.ModuleDict({"features": features["vgg16"]})
    )
    theirs = tm_dists.DISTSNetwork(load_weights=False)
    for name, value in shipped("dists_models/weights.pt").items():
        getattr(theirs, name).data = value
    a, b = pair(side)
    torch.testing.assert_close(dists.compare(a, b), theirs(a, b), rtol=0, atol=1e-6)
    assert (dists.compare(a, b) > 1e-3).all()


@pytest.mark.parametrize(("net", "name"), [("vgg16", "vgg"), ("alexnet", "alex")])
def test_lpips_matches_torchmetrics(monkeypatch, features, states, net, name):
    monkeypatch.setattr(tm_lpips, "_get_tv_model_features", lambda *_: features[net])
    theirs = tm_lpips._LPIPS(net=name)
    a, b = pair(35)
    ours = build.lpips(states[net], net=net)(a, b)
    torch.testing.assert_close(ours, theirs(a, b, normalize=True).flatten(), rtol=1e-5, atol=1e-7)
    assert (ours > 1e-3).all()


def test_texture_structure_is_the_dists_formula():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=generator)
    alpha, beta = torch.tensor([0.1, 0.2, 0.1]), torch.tensor([0.3, 0.1, 0.2])  # their sum is 1
    c = 0.01
    expected = torch.ones(2, dtype=torch.float64)
    for k in range(3):
        x, y = a[:, k].flatten(1), b[:, k].flatten(1)
        mx, my = x.mean(1), y.mean(1)
        vx, vy = x.var(1, correction=0), y.var(1, correction=0)
        cov = (x * y).mean(1) - mx * my
        expected -= alpha[k] * (2 * mx * my + c) / (mx**2 + my**2 + c)
        expected -= beta[k] * (2 * cov + c) / (vx + vy + c)
    result = texture_structure(a, b, alpha, beta, c)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["dists", "lpips", "lpips_alex"])
def test_perceptual_distances_keep_the_contract(states, name):
    distance = build_distance(name, weights=states["alexnet" if "alex" in name else "vgg16"])
    a, b = pair(32, n=3)
    whole = distance.compare(a, b)
    assert whole.shape == (3,)
    assert whole.dtype == torch.float32
    assert distance.compare(a, a).tolist() == [0.0] * 3
    order = torch.tensor([2, 0, 1])
    assert torch.equal(distance.compare(a[order], b[order]), whole[order])
    torch.testing.assert_close(distance.compare(a[:1], b[:1]), whole[:1])
    gray, other = a[:, :1], b[:, :1]
    expanded = distance.compare(gray.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1))
    torch.testing.assert_close(distance.compare(gray, other), expanded)
    assert not distance.training
    assert not any(p.requires_grad for p in distance.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distance.compare(a, b), whole)


def test_a_network_moves_with_its_distance(states):
    distance = build_distance("lpips_alex", weights=states["alexnet"])
    a, b = pair(32)
    single = distance.compare(a, b)
    assert distance.compare(a.double(), b.double()).dtype == torch.float64
    double = distance.double().compare(a.double(), b.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("net", "smallest"), [("vgg16", 16), ("alexnet", 31)])
def test_lpips_names_the_smallest_image(states, net, smallest):
    lpips = build.lpips(states[net], net=net)
    assert lpips(*pair(smallest)).isfinite().all()
    with pytest.raises(UserError, match=f"{net} needs images of at least {smallest} px"):
        lpips(*pair(smallest - 1))


def test_dists_takes_the_smallest_images(dists):
    assert dists.compare(*pair(1)).isfinite().all()


def test_the_backbone_state_builds_the_same_distance(states):
    first = build.lpips(states["alexnet"], net="alexnet")
    second = build.lpips(first.backbone.state_dict(), net="alexnet")
    a, b = pair(32)
    assert torch.equal(first(a, b), second(a, b))


def test_building_draws_no_random_numbers(states):
    before = torch.get_rng_state()
    load_features("alexnet", states["alexnet"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layout", ["full", "features", "safetensors", "folder", "cache", "half"])
def test_every_place_and_layout_of_the_weights_file(tmp_path, monkeypatch, states, layout):
    state = states["alexnet"]
    path: Path | None = tmp_path / "weights.pth"
    if layout in ("full", "folder", "cache"):
        state = {f"features.{key}": value for key, value in state.items()}
        state["classifier.6.bias"] = torch.zeros(1000)
    if layout == "half":
        state = {key: value.half() for key, value in state.items()}
    if layout == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif layout == "folder":
        torch.save(state, tmp_path / FILES["alexnet"])
        path = tmp_path
    elif layout == "cache":
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(state, tmp_path / "hub" / "checkpoints" / FILES["alexnet"])
        path = None
    else:
        torch.save(state, path)
    loaded = load_features("alexnet", path).state_dict()
    assert list(loaded) == list(states["alexnet"])
    for key, value in loaded.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, states["alexnet"][key], rtol=1e-3, atol=1e-3)


def test_missing_weights_are_reported_with_name_place_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)  # must not be called
    with pytest.raises(UserError, match=FILES["vgg16"]) as caught:
        build_distance("dists")
    message = str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in message
    assert "detector.perceptual_weights" in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"looked for .*nowhere\.pth"):
        build_distance("dists", weights=tmp_path / "nowhere.pth", download=True)


def test_weights_are_downloaded_only_on_request(tmp_path, monkeypatch, states):
    calls = []

    def fetch(url, **options):
        calls.append((url.rsplit("/", 1)[-1], options["weights_only"], options["check_hash"]))
        return states["alexnet"]

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    build_distance("lpips_alex", download=True)
    assert calls == [(FILES["alexnet"], True, True)]

    def offline(url, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"cannot download .*no route.*perceptual_weights"):
        build_distance("lpips_alex", download=True)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_bad_weights_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"0.weight": Hostile()}, protocol=2))
    with pytest.raises(UserError, match=r"weights\.pth was refused"):
        load_features("alexnet", path)
    assert not Path("executed").exists()
    for content in (b"", b"no weights", b"\x80\x02\xff"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"weights\.pth (was refused|cannot be read)"):
            load_features("alexnet", path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="holds no tensors"):
        load_features("alexnet", path)


def test_weights_of_another_network_are_refused(states):
    with pytest.raises(UserError, match=r"do not fit vgg16: 'features\.0\.weight' .*11, 11"):
        build.dists(states["alexnet"])
    short = dict(states["alexnet"])
    short.pop("10.bias")
    with pytest.raises(UserError, match=r"'features\.10\.bias'.* got nothing"):
        load_features("alexnet", short)
