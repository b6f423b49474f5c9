import pytest
import torch
from torch import nn

from diffguard.baselines import FEATURE_BASELINES, LOGIT_BASELINES, Baselines, Reference
from diffguard.classifiers import ClassifierOutput
from diffguard.errors import UserError


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
    return ClassifierOutput(head(features).detach(), features)


@pytest.mark.parametrize("name", [*LOGIT_BASELINES, *FEATURE_BASELINES])
def test_what_lies_far_from_the_classes_scores_higher(name, reference, head):
    baselines = Baselines([name], reference, head, knn_k=5)
    inside = output_of(head, reference.features[:30])
    outside = output_of(head, torch.tensor([[1.3, 1.3, 1.3, 9.0, -9.0, 9.0]]).repeat(4, 1))
    inside, outside = baselines.score(inside)[name], baselines.score(outside)[name]
    assert inside.dtype == torch.float64
    assert inside.shape == (30,)
    assert outside.min() > inside.median()


def test_known_values(head):
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    scores = Baselines(["msp", "mls", "energy"]).score(ClassifierOutput(logits, torch.zeros(1, 6)))
    assert scores["msp"].item() == pytest.approx(-logits.softmax(1).max().item())
    assert scores["mls"].item() == pytest.approx(-2.0)
    assert scores["energy"].item() == pytest.approx(-logits.logsumexp(1).item())


def test_a_row_does_not_depend_on_its_place(reference, head):
    baselines = Baselines(["knn", "vim", "mahalanobis"], reference, head, knn_k=5)
    features = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    plain = baselines.score(output_of(head, features))
    moved = baselines.score(output_of(head, features[order]))
    for name, values in plain.items():
        assert torch.equal(values[order], moved[name]), name


@pytest.mark.parametrize(
    ("names", "arguments", "said"),
    [
        (["nope"], {}, "'nope' is not known"),
        (["knn"], {}, "data.id.train"),
        (["vim"], {"with_reference": True}, "last linear layer"),
        (["knn"], {"with_reference": True, "knn_k": 61}, "knn_k is 61"),
    ],
)
def test_what_is_missing_is_named(names, arguments, said, reference):
    given = dict(arguments)
    reference = reference if given.pop("with_reference", False) else None
    with pytest.raises(UserError, match=said):
        Baselines(names, reference, None, **given)
