import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffguard.errors import UserError
from diffguard.scores import build
from diffguard.scores.build import build_distance
from diffguard.scores.distance_names import DISTANCES
from diffguard.scores.distances import Views
from diffguard.scores.formulas import (
    PSNR_CAP,
    dists_statistics,
    gmsd,
    ms_ssim,
    pool_features,
    psnr,
    ssim,
    ssim_reflect,
)
from diffguard.scores.tandem import tandem

PLAIN = [name for name, spec in DISTANCES.items() if not spec.perceptual]


def waves(channels: int, height: int, width: int, phase: float) -> torch.Tensor:
    """Two float64 images in [0, 1] of known content, `(2, channels, height, width)`."""
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)
    k = 1 + torch.arange(2 * channels, dtype=torch.float64).view(2, channels, 1, 1)
    return 0.5 + 0.5 * torch.sin(0.37 * x * k + 0.21 * y * (1 + k) + phase * k)


def inputs(name: str, seed: int, n: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random input of the kind that the distance compares; small where it can be."""
    generator = torch.Generator().manual_seed(seed)
    image = (1, 176, 176) if name == "ms_ssim" else (3, 14, 14)
    shape = (n, *image) if DISTANCES[name].needs == "images" else (n, 9)
    return torch.rand(shape, generator=generator, dtype=dtype)


def test_pixel_distances_follow_their_formulas():
    a, b = inputs("l1", 0), inputs("l1", 1)
    difference = (a.numpy() - b.numpy()).astype(np.float64)
    mean_square = (difference**2).mean((1, 2, 3))
    expected = {
        "l1": np.abs(difference).mean((1, 2, 3)),
        "l2": np.sqrt((difference**2).sum((1, 2, 3))),
        "psnr": 10 * np.log10(mean_square),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(build_distance(name).compare(a, b), value, rtol=1e-5)
    # The paper's "dB" of images in [-1, 1]: 20 log10(255/2) above the true ones in [0, 1].
    paper = psnr(2 * a - 1, 2 * b - 1, peak=255)
    np.testing.assert_allclose(paper, 20 * np.log10(255 / 2) - expected["psnr"], rtol=1e-5)


def test_psnr_of_equal_images_is_infinite_as_quality_and_capped_as_distance():
    a = inputs("psnr", 0)
    nearly = a + 1e-6
    assert psnr(a, a).isinf().all()
    assert build_distance("psnr").compare(a, a).tolist() == [-PSNR_CAP] * 4
    assert build_distance("psnr").compare(a, nearly).tolist() == [-PSNR_CAP] * 4
    assert build_distance("psnr").quality(Views(a), Views(a)).tolist() == [PSNR_CAP] * 4


@pytest.mark.parametrize("distance", [ssim, ssim_reflect])
@pytest.mark.parametrize(("side", "radius"), [(28, 5), (14, 5), (11, 5), (10, 4), (3, 1)])
def test_ssim_is_the_windowed_formula(distance, side, radius):
    a, b = waves(1, side, side, 0.0), waves(1, side, side, 0.4)
    line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * (0.3 * radius) ** 2))
    window = np.outer(line, line) / line.sum() ** 2

    def moment(images: np.ndarray) -> np.ndarray:
        if distance is ssim_reflect:
            images = np.pad(images, [(0, 0)] + [(radius, radius)] * 2, mode="reflect")
        patches = np.lib.stride_tricks.sliding_window_view(images, window.shape, axis=(1, 2))
        return (patches * window).sum((-1, -2))

    x, y = a[:, 0].numpy(), b[:, 0].numpy()
    mx, my = moment(x), moment(y)
    vx, vy, cov = moment(x * x) - mx**2, moment(y * y) - my**2, moment(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / (mx**2 + my**2 + c1) / (vx + vy + c2)
    np.testing.assert_allclose(distance(a, b), 1 - expected.mean((1, 2)), atol=1e-6)


def test_ms_ssim_and_gmsd_agree_with_piq():
    # Numbers from piq 0.8.0 (multi_scale_ssim, gmsd) on the same waves, float64. Its coarsest
    # scale leaves out the border, which torchmetrics mirrors.
    a, b = waves(3, 192, 192, 0.0), waves(3, 192, 192, 0.05)
    np.testing.assert_allclose(1 - ms_ssim(a, b), [0.996137710910, 0.987164901644], atol=2e-5)
    reference = {3: [0.220021340658, 0.110648384098], 1: [0.225687835764, 0.273860910880]}
    for channels, expected in reference.items():
        a, b = waves(channels, 20, 24, 0.0), waves(channels, 20, 24, 0.4)
        np.testing.assert_allclose(gmsd(a, b), expected, atol=1e-10)


def test_gmsd_takes_odd_sizes_and_ignores_no_pixel():
    a = torch.zeros(1, 1, 7, 7)
    b = a.clone()
    b[..., 6, 6] = 1.0
    assert gmsd(a, b) > 0
    assert gmsd(a[..., :1, :1], b[..., :1, :1]) == 0


def test_dists_statistics_is_the_formula():
    a, b = waves(3, 9, 7, 0.0) * 1.4 - 0.2, waves(3, 9, 7, 0.3)
    for n in range(2):
        terms = []
        for x, y in zip(a[n].flatten(1).numpy(), b[n].flatten(1).numpy(), strict=True):
            (vx, cov), (_, vy) = np.cov(x, y, bias=True)
            mx, my, c = x.mean(), y.mean(), 1e-6
            texture = (2 * mx * my + c) / (mx**2 + my**2 + c)
            terms.append(0.5 * texture + 0.5 * (2 * cov + c) / (vx + vy + c))
        assert dists_statistics(a, b)[n].item() == pytest.approx(1 - np.mean(terms), abs=1e-12)


def test_classifier_distances_follow_their_formulas():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 5, 9))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    expected = {
        "logits_l1": np.abs(x - y).sum(1),
        "feature_l2": np.sqrt(((x - y) ** 2).sum(1)),
        "feature_cosine": 1 - (x * y).sum(1) / norms,
    }
    for name, value in expected.items():
        result = build_distance(name).compare(torch.from_numpy(x), torch.from_numpy(y))
        np.testing.assert_allclose(result, value, rtol=1e-12)


def test_feature_cosine_keeps_its_digits_near_zero_and_is_finite_for_zero_vectors():
    angle = 1e-4  # 1 - cos = 5e-9, below the resolution of 1 - x in float32
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[np.cos(angle), np.sin(angle)]]).float()
    assert build_distance("feature_cosine").compare(a, b).item() == pytest.approx(5e-9, rel=1e-3)
    assert build_distance("feature_cosine").compare(a * 0, a).isfinite().all()


@pytest.mark.parametrize("name", PLAIN)
def test_every_distance_is_smallest_for_equal_input_and_keeps_the_type(name):
    distance = build_distance(name)
    for dtype in (torch.float32, torch.float64):
        a, b = inputs(name, 0, dtype=dtype), inputs(name, 1, dtype=dtype)
        same, other = distance.compare(a, a), distance.compare(a, b)
        assert same.shape == other.shape == (4,)
        assert same.dtype == other.dtype == dtype
        assert same.isfinite().all()
        assert (other > same + 1e-3).all()
        quality = distance.quality(*(Views(x, logits=x, features=x) for x in (a, b)))
        torch.testing.assert_close(quality, DISTANCES[name].perfect - other)
    half = distance.compare(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, other.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", PLAIN)
def test_no_row_depends_on_the_others(name):
    distance = build_distance(name)
    a, b = inputs(name, 0), inputs(name, 1)
    whole = distance.compare(a, b)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(distance.compare(a[order], b[order]), whole[order])
    padded = distance.compare(a[[1, 1, 1, 1]], b[[1, 0, 0, 0]])
    assert torch.equal(padded[0], whole[1])
    for n in (1, 3):
        part = distance.compare(a[:n], b[:n])
        assert part.shape == (n,)
        torch.testing.assert_close(part, whole[:n])


def test_autocast_does_not_reach_the_comparison():
    a = inputs("ssim", 0)
    expected = ssim(a, a * 0.999)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(build_distance("ssim").compare(a, a * 0.999), expected)


def test_views_give_each_distance_its_input():
    a = Views(torch.rand(2, 1, 8, 8), torch.rand(2, 5), torch.rand(2, 6))
    b = Views(torch.rand(2, 1, 8, 8), torch.rand(2, 5), torch.rand(2, 6))
    for name, kind in (("l1", "images"), ("logits_l1", "logits"), ("feature_l2", "features")):
        distance = build_distance(name)
        assert distance.needs == kind
        direct = distance.compare(getattr(a, kind), getattr(b, kind))
        assert torch.equal(distance(a, b), direct)
    with pytest.raises(UserError, match="logits_l1 needs logits"):
        build_distance("logits_l1")(Views(a.images), Views(b.images))


def test_any_named_layer_is_compared_after_pooling():
    maps = torch.rand(2, 5, 3, 4), torch.rand(2, 5, 3, 4)
    tokens = torch.rand(2, 7, 5)
    image = torch.rand(2, 1, 8, 8)
    distance = build_distance("feature_cosine@layer2.1")
    assert (distance.needs, distance.layer) == ("layer", "layer2.1")
    a, b = (Views(image, layers={"layer2.1": m}) for m in maps)
    plain = build_distance("feature_cosine").compare(*(m.mean((2, 3)) for m in maps))
    torch.testing.assert_close(distance(a, b), plain)
    pooled = [Views(image, layers={"layer2.1": pool_features(m)}) for m in maps]
    assert torch.equal(distance(*pooled), distance(a, b))
    torch.testing.assert_close(pool_features(tokens), tokens.mean(1))
    with pytest.raises(UserError, match=r"needs layer 'layer2\.1'"):
        distance(Views(image), Views(image))
    with pytest.raises(UserError, match="name another layer"):
        pool_features(torch.rand(2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lpis", "unknown distance 'lpis': choose from l1, l2"),
        ("", "unknown distance"),
        ("l2@layer1", "only feature_l2 and feature_cosine"),
        ("logits_l1@fc", "only feature_l2 and feature_cosine"),
        ("feature_l2@", "only feature_l2 and feature_cosine"),
    ],
)
def test_bad_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        build_distance(name)


@pytest.mark.parametrize(
    ("name", "a", "b", "message"),
    [
        ("l1", (2, 3, 4, 4), (2, 1, 4, 4), "one shape"),
        ("gmsd", (2, 4, 4, 4), (2, 4, 4, 4), "C = 1 or 3"),
        ("l1", (3, 4, 4), (3, 4, 4), "C = 1 or 3"),
        ("ssim", (1, 1, 9, 2), (1, 1, 9, 2), "at least 3 px"),
        ("ms_ssim", (1, 1, 200, 175), (1, 1, 200, 175), "at least 176 px"),
    ],
)
def test_bad_shapes_are_refused(name, a, b, message):
    with pytest.raises(UserError, match=message):
        build_distance(name).compare(torch.zeros(a), torch.zeros(b))


def test_only_perceptual_names_build_a_network(monkeypatch):
    class Network(nn.Module):
        def __init__(self, weights, download):
            super().__init__()
            raise RuntimeError(f"built with {weights}, {download}")

    monkeypatch.setitem(build.NETWORKS, "dists", Network)
    for name in PLAIN:
        assert not list(build_distance(name).parameters())
    with pytest.raises(RuntimeError, match=r"built with w\.pth, True"):
        build_distance("dists", weights="w.pth", download=True)


@pytest.mark.parametrize("name", PLAIN)
def test_distances_can_be_copied_to_other_processes(name):
    distance = build_distance(name)
    torch.save(distance, io.BytesIO())  # pickles it, as starting a process by "spawn" does
    assert copy.deepcopy(distance).name == name


def test_tandem_orders_clear_id_doubtful_and_clear_ood():
    first = torch.tensor([-3.0, 0.2, 0.9, 1.0, 0.0, 4.0])
    second = torch.tensor([99.0, 5.0, -2.0, 0.0, -1e3, -99.0])
    result = tandem([first, second], [(0.0, 1.0)])
    assert result.dtype == torch.float64
    assert result[[0, 5]].tolist() == [-3.0, 4.0]
    assert result.argsort().tolist() == [0, 4, 2, 3, 1, 5]
    assert ((result[1:5] > 0) & (result[1:5] < 1)).all()
    assert result[3] == 0.5


def test_third_stage_of_a_tandem_decides_only_if_both_others_doubt():
    first = torch.tensor([0.5, 0.5, 0.5, 2.0])
    second = torch.tensor([0.0, 0.0, 9.0, 0.0])
    third = torch.tensor([1.0, -1.0, -9.0, -9.0])
    result = tandem([first, second, third], [(0.0, 1.0), (-1.0, 1.0)])
    assert result.argsort().tolist() == [1, 0, 2, 3]
    assert result[2] == pytest.approx(0.5 * (1 + 9 / 10))


scores = st.floats(-50, 50, width=32)


@settings(deadline=None, max_examples=50)
@given(scores, scores, st.floats(0, 50, width=32), st.floats(0, 50, width=32))
def test_tandem_never_falls_when_a_score_rises(first, second, more_first, more_second):
    pair = torch.tensor([[first, first + more_first], [second, second + more_second]])
    low, high = tandem([pair[0], pair[1]], [(-1.0, 2.0)])
    assert high >= low


@pytest.mark.parametrize(
    ("count", "bands", "message"),
    [
        (1, [], "two or more scores"),
        (2, [], "a band for each but the last"),
        (2, [(1.0, 1.0)], "low < high"),
        (2, [(float("nan"), 1.0)], "low < high"),
    ],
)
def test_tandem_refuses_bad_bands(count, bands, message):
    with pytest.raises(UserError, match=message):
        tandem([torch.zeros(3)] * count, bands)
