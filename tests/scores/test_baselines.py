import pickle

import pytest
import torch
from torch import nn

from diffguard.errors import UserError
from diffguard.scores.baseline_checks import check_classes
from diffguard.scores.baseline_table import BASELINES
from diffguard.scores.baselines import Baselines
from diffguard.scores.reference import Reference


@pytest.fixture
def reference():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centers = 4 * torch.eye(3, 6)
    return Reference(centers[labels] + torch.randn(60, 6, generator=generator), labels)


@pytest.fixture
def head():
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3, 6))
        layer.bias.zero_()
    return layer


def output_of(head, features):
    return head(features).detach(), features


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "odin"])
def test_features_far_from_the_classes_score_higher(name, reference, head):
    logits = head(reference.features).detach()
    validation = BASELINES[name].validation
    fits = {} if validation is None else {name: validation.make(logits, reference.labels)}
    baselines = Baselines([name], reference, head, fits=fits, knn_k=5)
    # A launcher may start processes that receive the detector as bytes.
    baselines = pickle.loads(pickle.dumps(baselines))
    inside = output_of(head, reference.features[:30])
    outside = output_of(head, torch.tensor([[1.3, 1.3, 1.3, 9.0, -9.0, 9.0]]).repeat(4, 1))
    inside, outside = baselines.score(*inside)[name], baselines.score(*outside)[name]
    assert inside.dtype == torch.float64
    assert inside.shape == (30,)
    assert outside.min() > inside.median()


def test_a_row_does_not_depend_on_its_place(reference, head):
    baselines = Baselines(["knn", "vim", "mahalanobis"], reference, head, knn_k=5)
    features = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    plain = baselines.score(*output_of(head, features))
    moved = baselines.score(*output_of(head, features[order]))
    for name, values in plain.items():
        assert torch.equal(values[order], moved[name]), name


def test_neighbors_scale_with_the_share_of_training_images(reference, head):
    output = output_of(head, reference.features[:8] + 0.5)
    a_fifth = Reference(reference.features, reference.labels, share=0.2)
    assert a_fifth.training_images == 300
    expected = Baselines(["knn"], reference, knn_k=5).score(*output)["knn"]
    for knn_k, neighbors in ((25, 5), (27, 5), (300, 60), (1, 1)):
        scores = Baselines(["knn"], a_fifth, knn_k=knn_k).score(*output)["knn"]
        same = Baselines(["knn"], reference, knn_k=neighbors).score(*output)["knn"]
        assert torch.equal(scores, same)
        assert torch.equal(scores, expected) == (neighbors == 5)
    with pytest.raises(UserError, match="knn_k is 301, but there are only 300 ID training images"):
        Baselines(["knn"], a_fifth, knn_k=301)


def squared_distance(features, mean, scatter):
    difference = features - mean
    return torch.einsum("nd,de,ne->n", difference, torch.linalg.inv(scatter), difference)


def scatter_of(features, means):
    return sum(torch.outer(row, row) for row in features - means)


@pytest.mark.parametrize("width", [6, 90])
def test_mahalanobis_and_rmd_are_their_formulas(width):
    """A covariance around the class means; with 90 features of 60 images it has no inverse."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = (torch.randn(60, width, generator=generator) + 2 * labels[:, None]).relu()
    rows = 3 * torch.rand(5, width, generator=generator)
    double, ridge = features.double(), 1e-6 * torch.eye(width)
    means = torch.stack([double[labels == k].mean(0) for k in range(3)])
    within = scatter_of(double, means[labels]) + ridge
    total = scatter_of(double, double.mean(0)) + ridge
    nearest = torch.stack([squared_distance(rows.double(), mean, within) for mean in means]).amin(0)
    overall = squared_distance(rows.double(), double.mean(0), total)
    baselines = Baselines(["mahalanobis", "rmd"], Reference(features, labels), knn_k=5)
    scores = baselines.score(torch.zeros(5, 3), rows)
    torch.testing.assert_close(scores["mahalanobis"], nearest / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(scores["rmd"], nearest - overall, rtol=1e-6, atol=1e-6)
    for k in range(5):
        alone = baselines.score(torch.zeros(8, 3), rows[[k] * 8])
        torch.testing.assert_close(alone["rmd"][0], scores["rmd"][k], rtol=1e-12, atol=1e-9)


def test_mahalanobis_and_rmd_are_those_of_pytorch_ood(reference):
    from pytorch_ood import detector as ood

    scores = Baselines(["mahalanobis", "rmd"], reference, knn_k=5).score(
        torch.zeros(60, 3), reference.features + 1
    )
    for name, cls in (("mahalanobis", ood.Mahalanobis), ("rmd", ood.RMD)):
        theirs = cls(None).fit_features(reference.features, reference.labels)
        expected = theirs.predict_features(reference.features + 1).double()
        torch.testing.assert_close(scores[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mahalanobis", "rmd", "she"])
def test_a_class_without_reference_images_is_named(name, reference, head):
    rows = reference.labels != 1
    reference = Reference(reference.features[rows], reference.labels[rows])
    with pytest.raises(UserError, match=rf"{name} need a reference image of each class.*\(1\)"):
        Baselines([name], reference, head, knn_k=5)
    with pytest.raises(UserError, match=rf"1 of 3 classes have none \(bee\).*leave {name} out"):
        check_classes([name, "knn"], reference.labels, ["ant", "bee", "cat"])
    check_classes(["knn", "vim"], reference.labels, ["ant", "bee", "cat"])


def test_she_needs_a_recognized_image_of_each_class(reference, head):
    mixed = Reference(reference.features, 2 - reference.labels)
    with pytest.raises(UserError, match=r"2 of 3 classes have none \(numbers 0, 2"):
        Baselines(["she"], mixed, head, knn_k=5)


def test_vim_takes_fewer_dimensions_than_there_are_features(reference, head):
    for dimensions in (6, 9999):
        with pytest.raises(UserError, match=rf"vim_dim is {dimensions}, .* has 6 features"):
            Baselines(["vim"], reference, head, knn_k=5, vim_dim=dimensions)
    scores = Baselines(["vim"], reference, head, knn_k=5, vim_dim=5).score(
        *output_of(head, torch.eye(6))
    )
    assert scores["vim"].isfinite().all()


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["nope"], {}, "'nope' is not known"),
        (["knn"], {}, "data.id.train"),
        (["vim"], {"with_reference": True}, "last linear layer"),
        (["knn"], {"with_reference": True, "knn_k": 61}, "knn_k is 61"),
        (["msp", "knn"], {"with_reference": True, "spoiled": True}, "features .* not finite"),
    ],
)
def test_missing_inputs_are_named(names, arguments, message, reference):
    options = dict(arguments)
    if options.pop("spoiled", False):
        reference.features[3, 2] = float("nan")
    reference = reference if options.pop("with_reference", False) else None
    with pytest.raises(UserError, match=message):
        Baselines(names, reference, None, **{"knn_k": 5, **options})
