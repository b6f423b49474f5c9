"""A classifier that does not belong to the images is noticed."""

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


@pytest.mark.parametrize("each", [5, 50])
def test_another_order_of_a_thousand_classes_is_refused(each):
    true, predictions = confused(1000, each, 5, seed=0)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    with pytest.raises(UserError, match="in another order"):
        check_labels(true, order[predictions], list(map(str, range(1000))))


def test_two_classes_that_changed_places_among_a_thousand_are_refused():
    true, predictions = confused(1000, 10, 5, seed=0)
    swapped = torch.arange(1000)
    swapped[[40, 700]] = torch.tensor([700, 40])
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
