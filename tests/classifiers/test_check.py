"""A classifier that does not belong to the images is noticed."""

import numpy as np
import pytest
import torch
from torch import nn

from diffguard.classifiers.check import check_head, check_labels
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.errors import UserError

NAMES = ("ant", "bee", "cat", "dog")


def labels(each=10):
    return torch.arange(4).repeat_interleave(each)


def test_a_good_classifier_passes():
    predictions = labels()
    predictions[::7] = 0
    assert check_labels(labels(), predictions, NAMES) is None


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [1, 2, 3, 0], [3, 2, 1, 0]])
def test_another_class_order_is_reported_with_the_names(order):
    predictions = torch.tensor(order)[labels()]
    predictions[::5] = 2
    with pytest.raises(UserError, match=r"images of 'ant' are classified as '\w+'.*class_names"):
        check_labels(labels(), predictions, NAMES)


def confused(classes, each, pairs, seed, right=0.76):
    """Labels and predictions of a classifier that confuses neighbors, and mixes pairs evenly."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(classes).repeat_interleave(each)
    off = 1 + torch.randint(4, true.shape, generator=generator)
    hit = torch.rand(true.shape, generator=generator) < right
    predictions = torch.where(hit, true, (true + off) % classes)
    synonyms = true < 2 * pairs
    coin = torch.rand(true.shape, generator=generator) < 0.45
    return true, torch.where(synonyms & ~coin, true ^ 1, torch.where(synonyms, true, predictions))


@pytest.mark.parametrize(("each", "seeds"), [(5, 12), (50, 2)])
def test_synonyms_of_imagenet_are_the_same_order(each, seeds):
    names = ["sunglass", "sunglasses", *map(str, range(998))]
    warnings = [check_labels(*confused(1000, each, 5, seed), names) for seed in range(seeds)]
    assert any("'sunglass' are classified as 'sunglasses'" in (line or "") for line in warnings)
    assert all("check the order of class_names" in line for line in warnings if line)


def uneven(classes, each, accuracy, seed):
    """Labels and predictions of a correct classifier that recognizes some classes poorly.

    The errors of a class go to few others, and some pairs of classes mean nearly the same.
    """
    rng = np.random.default_rng(seed)
    recall = rng.beta(4 * accuracy, 4 * (1 - accuracy), classes)
    chances = rng.dirichlet(np.full(classes, 0.05), size=classes) + 1e-6
    np.fill_diagonal(chances, 0)
    chances *= ((1 - recall) / chances.sum(1))[:, None]
    np.fill_diagonal(chances, recall)
    for first in range(0, classes // 20, 2):
        share = rng.uniform(0.1, 0.9)
        for row, other, part in ((first, first + 1, share), (first + 1, first, 1 - share)):
            chances[row] = 0
            chances[row, [row, other]] = part, 1 - part
    true = np.arange(classes).repeat(each)
    predictions = [rng.choice(classes, each, p=chance / chance.sum()) for chance in chances]
    return torch.from_numpy(true), torch.from_numpy(np.concatenate(predictions))


@pytest.mark.parametrize(
    ("classes", "each", "accuracy", "seeds"),
    [
        *[(1000, 5, 0.76, 3), (200, 5, 0.7, 10), (10, 20, 0.8, 20), (2, 10, 0.9, 20)],
        *[(10, 10, 0.4, 40), (100, 5, 0.2, 5), (10, 5, 0.5, 20)],
    ],
)
def test_a_correct_classifier_with_few_images_per_class_is_not_refused(
    classes, each, accuracy, seeds
):
    names = list(map(str, range(classes)))
    for seed in range(seeds):
        check_labels(*uneven(classes, each, accuracy, seed), names)


@pytest.mark.parametrize(("classes", "each", "moved"), [(1000, 5, 400), (100, 5, 50), (10, 10, 5)])
def test_an_order_that_moves_a_part_of_the_classes_is_refused(classes, each, moved):
    true, predictions = uneven(classes, each, 0.8, seed=1)
    order = torch.arange(classes)
    order[-moved:] = order[-moved:].roll(1)
    names = list(map(str, range(classes)))
    with pytest.raises(UserError, match=r"in another order.*data.check_labels false"):
        check_labels(true, order[predictions], names)
    warning = check_labels(true, order[predictions], names, refuse=False)
    assert "check the order of class_names" in warning


@pytest.mark.parametrize(("classes", "each", "accuracy"), [(10, 10, 0.4), (100, 5, 0.2)])
def test_another_order_of_a_weak_classifier_is_refused(classes, each, accuracy):
    true, predictions = uneven(classes, each, accuracy, seed=0)
    order = torch.arange(classes).roll(1)
    with pytest.raises(UserError, match="in another order"):
        check_labels(true, order[predictions], list(map(str, range(classes))))


@pytest.mark.parametrize("each", [5, 50])
def test_another_order_of_a_thousand_classes_is_refused(each):
    true, predictions = confused(1000, each, 5, seed=0)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    with pytest.raises(UserError, match="in another order"):
        check_labels(true, order[predictions], list(map(str, range(1000))))


@pytest.mark.parametrize("places", [[40, 700], [40, 700, 300]])
def test_classes_that_changed_places_among_a_thousand_are_refused(places):
    true, predictions = confused(1000, 10, 5, seed=0)
    swapped = torch.arange(1000)
    swapped[places] = torch.tensor([*places[1:], places[0]])
    with pytest.raises(UserError, match="'40' are classified as '700'"):
        check_labels(true, swapped[predictions], list(map(str, range(1000))))


def test_a_class_that_is_never_predicted_is_not_another_order():
    predictions = labels()
    predictions[predictions == 0] = 1
    assert check_labels(labels(), predictions, NAMES) is None


def test_few_images_of_two_mixed_classes_are_not_another_order():
    predictions = torch.tensor([1, 0, 2, 3])[labels(4)]
    assert check_labels(labels(4), predictions, NAMES) is None


def test_accuracy_at_chance_is_a_warning():
    predictions = torch.arange(40) % 4
    message = check_labels(labels(), predictions, NAMES)
    assert "right on only 10 of 40 ID validation images" in message
    assert "chance among 4 classes" in message


def output(head, scale):
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ClassifierOutput(scale * head(features), features)


def test_a_nonlinear_last_layer_is_reported_if_a_baseline_needs_it():
    head = nn.Linear(5, 3)
    check_head(head, output(head, 1.0), ["vim"])
    check_head(head, output(head, 4.0), [])
    check_head(None, output(head, 4.0), ["vim"])
    with pytest.raises(UserError, match="baseline vim needs a linear last layer"):
        check_head(head, output(head, 4.0), ["vim", "she"])
