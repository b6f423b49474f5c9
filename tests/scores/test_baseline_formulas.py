"""Baselines of features and images equal their papers' formulas, computed row by row."""

import math
import warnings

import numpy as np
import pytest
import torch
from pytorch_ood import detector as ood
from torch import nn
from torch.nn import functional as F

from diffguard.errors import UserError
from diffguard.scores import reference as reference_module
from diffguard.scores.activation_baselines import quantile
from diffguard.scores.baseline_table import BASELINES, PARAMETERS
from diffguard.scores.baselines import Baselines
from diffguard.scores.reference import Reference
from diffguard.settings.detector import DetectorSettings

CLASSES, WIDTH = 4, 20
OWN_VALUES = {
    "knn_k": 5,
    "vim_dim": 7,
    "nci_alpha": 0.05,
    "react_percentile": 0.8,
    "ash_percentile": 0.6,
    "scale_percentile": 0.7,
    "dice_sparsity": 0.6,
}


@pytest.fixture(scope="module")
def example():
    """Reference features behind a ReLU, a last layer, and rows to score."""
    generator = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(CLASSES, WIDTH, generator=generator)
    labels = torch.arange(80) % CLASSES
    features = (centers[labels] + torch.randn(80, WIDTH, generator=generator)).relu()
    rows = 2 * torch.randn(9, WIDTH, generator=generator).abs()
    head = nn.Linear(WIDTH, CLASSES).requires_grad_(requires_grad=False)
    head.weight.copy_(centers + torch.randn(CLASSES, WIDTH, generator=generator))
    head.bias.copy_(torch.randn(CLASSES, generator=generator))
    return Reference(features, labels), head, rows


def scores_of(names, example):
    reference, head, rows = example
    return Baselines(names, reference, head, **OWN_VALUES).score(head(rows), rows)


def energy(logits):
    return -math.log(sum(math.exp(value) for value in logits.tolist()))


def knn(z, reference, head):
    rows = reference.features.double().numpy()
    rows, unit = rows / np.linalg.norm(rows, axis=1)[:, None], z.double().numpy()
    return np.sort(np.linalg.norm(rows - unit / np.linalg.norm(unit), axis=1))[5 - 1]


def vim(z, reference, head):
    weight, bias = head.weight.double().numpy(), head.bias.double().numpy()
    origin = -np.linalg.pinv(weight) @ bias
    rows = reference.features.double().numpy()
    centered = rows - origin
    # The right singular vectors beyond the seven principal ones span their complement.
    complement = np.linalg.svd(centered)[2][7:]
    residuals = np.linalg.norm(centered @ complement.T, axis=1)
    alpha = (rows @ weight.T + bias).max(1).sum() / residuals.sum()
    virtual = alpha * np.linalg.norm(complement @ (z.double().numpy() - origin))
    return virtual + energy(head(z))


def she(z, reference, head):
    """Minus the inner product with the mean of the correctly classified features of the class."""
    top = int(head(z).argmax())
    members = [
        f.numpy()
        for f, k in zip(reference.features, reference.labels.tolist(), strict=True)
        if k == top == int(head(f).argmax())
    ]
    return -np.mean(members, axis=0) @ z.numpy()


def nnguide(z, reference, head):
    """Minus the energy times the mean of the ten largest similarities, each times its energy."""
    unit = z.numpy() / np.linalg.norm(z.numpy())
    guides = [-energy(head(f)) * (unit @ f.numpy()) / float(f.norm()) for f in reference.features]
    return np.mean(sorted(guides)[-10:]) * energy(head(z))


def fdbd(z, reference, head):
    logits = head(z)
    top = int(logits.argmax())
    distances = [
        abs(float(logits[top] - logits[c])) / float((head.weight[top] - head.weight[c]).norm())
        for c in range(CLASSES)
        if c != top
    ]
    return -np.mean(distances) / float((z - reference.features.mean(0)).norm())


def nci(z, reference, head):
    centered = z - reference.features.mean(0)
    alignment = centered @ head.weight[head(z).argmax()] / centered.norm()
    return float(-alignment - 0.05 * z.abs().sum())


def gaussians(z, reference, *, unit):
    """Squared distances to the classes and to the overall mean."""
    features, z = reference.features.double(), z.double()
    if unit:
        features, z = features / features.norm(dim=1, keepdim=True), z / z.norm()
    means = torch.stack([features[reference.labels == k].mean(0) for k in range(CLASSES)])
    ridge = 1e-6 * torch.eye(WIDTH)

    def squared(center, centers):
        rows = features - centers
        scatter = sum(torch.outer(row, row) for row in rows) + ridge
        return float((z - center) @ torch.linalg.inv(scatter) @ (z - center))

    nearest = min(squared(mean, means[reference.labels]) for mean in means)
    return nearest, squared(features.mean(0), features.mean(0))


def mahalanobis(z, reference, head):
    return gaussians(z, reference, unit=False)[0] / 2


def rmd(z, reference, head):
    nearest, overall = gaussians(z, reference, unit=False)
    return nearest - overall


def mds_pp(z, reference, head):
    return gaussians(z, reference, unit=True)[0] / 2


def rmd_pp(z, reference, head):
    nearest, overall = gaussians(z, reference, unit=True)
    return nearest - overall


def residual(z, weight):
    direction = weight / weight.norm()
    return z - (z @ direction) * direction


def core(z, reference, head):
    residuals = [[] for _ in range(CLASSES)]
    for f, k in zip(reference.features, reference.labels.tolist(), strict=True):
        residuals[k].append(residual(f, head.weight[k]))
    means = [torch.stack(rows).mean(0) for rows in residuals]

    def parts(z):
        top = int(head(z).argmax())
        return (
            -energy(head(z)),
            float(F.cosine_similarity(residual(z, head.weight[top]), means[top], dim=0)),
        )

    references = np.array([parts(f) for f in reference.features])
    return -((np.array(parts(z)) - references.mean(0)) / references.std(0)).sum()


def react(z, reference, head):
    ordered = np.sort(reference.features.numpy().ravel())
    return energy(head(z.clamp(max=float(ordered[math.ceil(0.8 * len(ordered)) - 1]))))


def largest(z, share):
    return z.sort(descending=True).values[: WIDTH - round(share * WIDTH)]


def ash(z, reference, head):
    top = largest(z, 0.6)
    return energy(head(torch.where(z >= top[-1], z.sum() / len(top), 0)))


def scale(z, reference, head):
    return energy(head(z * math.exp(float(z.sum() / largest(z, 0.7).sum()))))


def dice(z, reference, head):
    contributions = reference.features.mean(0) * head.weight
    cut = np.sort(contributions.numpy().ravel())[round(0.6 * contributions.numel()) - 1]
    return energy((z * head.weight * (contributions > cut)).sum(1) + head.bias)


FORMULAS = {
    "knn": knn,
    "vim": vim,
    "mahalanobis": mahalanobis,
    "rmd": rmd,
    "mds_pp": mds_pp,
    "rmd_pp": rmd_pp,
    "she": she,
    "nnguide": nnguide,
    "fdbd": fdbd,
    "nci": nci,
    "core": core,
    "react": react,
    "ash": ash,
    "scale": scale,
    "dice": dice,
}


def test_scores_are_the_formulas_of_the_papers(example):
    inputs = ("features", "activations")
    assert {*FORMULAS} == {name for name, row in BASELINES.items() if row.input in inputs}
    reference, head, rows = example
    scores = scores_of(list(FORMULAS), example)
    for name, formula in FORMULAS.items():
        expected = torch.tensor([float(formula(z, reference, head)) for z in rows]).double()
        torch.testing.assert_close(scores[name], expected, rtol=2e-5, atol=1e-5, msg=name)


def test_dice_without_sparsity_is_the_energy(example):
    reference, head, rows = example
    score = Baselines(["dice"], reference, head, dice_sparsity=0).score(head(rows), rows)["dice"]
    torch.testing.assert_close(score, -head(rows).logsumexp(1).double())


def test_scores_are_those_of_pytorch_ood(example):
    """To the last bit if pytorch-ood's own fit is replaced by one that takes less memory."""
    reference, head, rows = example
    weights = {"w": head.weight, "b": head.bias}
    theirs = {
        "knn": ood.KNN(None, k=5),
        "vim": ood.ViM(None, d=7, **weights),
        "she": ood.SHE(None, head),
        "nnguide": ood.NNGuide(None, head),
        "fdbd": ood.fDBD(None, head),
        "dice": ood.DICE(None, p=0.6, **weights),
    }
    scores = scores_of(list(theirs), example)
    padded = torch.cat([rows, rows[:1].expand(32 - len(rows), -1)])
    for name, detector in theirs.items():
        detector.fit_features(reference.features, reference.labels)
        expected = detector.predict_features(padded)[: len(rows)].double()
        if name in ("fdbd", "dice"):
            torch.testing.assert_close(scores[name], expected, rtol=1e-5, atol=0, msg=name)
        else:
            assert torch.equal(scores[name], expected), name


def test_a_fit_in_chunks_gives_the_same_scores(example, monkeypatch):
    names = [n for n, row in BASELINES.items() if "reference" in row.arguments]
    whole = scores_of(names, example)
    monkeypatch.setattr(reference_module, "CHUNK_ROWS", 7)
    for name, values in scores_of(names, example).items():
        torch.testing.assert_close(values, whole[name], rtol=1e-4, atol=1e-5, msg=name)


def test_quantile_is_an_activation_of_the_reference(example):
    features = example[0].features
    for share in (0.05, 0.5, 0.9, 0.99):
        value = quantile(example[0], share)
        assert (features == value).any()
        assert (features <= value).float().mean() >= share > (features < value).float().mean()


def test_odin_is_the_msp_after_a_step_against_the_loss():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, CLASSES))
    images = torch.rand(8, 1, 6, 6)
    values = {"odin_temperature": 10.0, "odin_step": 0.02}
    with torch.no_grad():
        logits = network(images)
        baseline = Baselines(["odin"], network=network, **values)
        odin = baseline.score(logits, logits, images)["odin"]
    # As inside Lightning, and without a warning.
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        again = baseline.score(logits.clone(), logits.clone(), images.clone())["odin"]
    assert torch.equal(odin, again)
    expected = []
    for image in images:
        x = image[None].clone().requires_grad_()
        scaled = network(x) / 10
        F.cross_entropy(scaled, scaled.argmax(1)).backward()
        expected.append(-(network(x - 0.02 * x.grad.sign()) / 10).softmax(1).max().item())
    torch.testing.assert_close(odin, torch.tensor(expected).double(), rtol=1e-5, atol=0)


def test_settings_have_the_defaults_of_the_table():
    defaults = {key: row.default for key, row in PARAMETERS.items()}
    assert DetectorSettings().baseline_parameters == defaults


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_values_out_of_range_are_refused(value):
    with pytest.raises(UserError, match=r"react_percentile must be (above 0|a finite number)"):
        PARAMETERS["react_percentile"].check(value)


def test_core_needs_each_class_of_the_head(example):
    reference, head, _ = example
    rows = reference.labels != CLASSES - 1
    part = Reference(reference.features[rows], reference.labels[rows])
    with pytest.raises(UserError, match="baseline core needs a reference image of each of the"):
        Baselines(["core"], part, head)
