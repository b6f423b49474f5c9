"""A classifier that does not belong to the images is noticed."""

import pytest
import torch
from torch import nn

from diffguard.classifier_check import check_head, check_labels
from diffguard.classifiers import ClassifierOutput
from diffguard.errors import UserError

NAMES = ("ant", "bee", "cat", "dog")


def labels(each=10):
    return torch.arange(4).repeat_interleave(each)


def test_a_good_classifier_passes():
    predictions = labels()
    predictions[::7] = 0
    assert check_labels(labels(), predictions, NAMES) is None


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [1, 2, 3, 0], [3, 2, 1, 0]])
def test_another_order_is_told_with_the_names(order):
    predictions = torch.tensor(order)[labels()]
    predictions[::5] = 2
    with pytest.raises(UserError, match=r"images of 'ant' are classified as '\w+'.*class_names"):
        check_labels(labels(), predictions, NAMES)


def test_a_class_that_is_never_predicted_is_no_other_order():
    predictions = labels()
    predictions[predictions == 0] = 1
    assert check_labels(labels(), predictions, NAMES) is None


def test_few_images_of_two_mixed_classes_are_no_other_order():
    predictions = torch.tensor([1, 0, 2, 3])[labels(4)]
    assert check_labels(labels(4), predictions, NAMES) is None


def test_chance_is_warned_of():
    predictions = torch.arange(40) % 4
    said = check_labels(labels(), predictions, NAMES)
    assert "right on only 10 of 40 ID validation images" in said
    assert "chance among 4 classes" in said


def output(head, scale):
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ClassifierOutput(scale * head(features), features)


def test_a_last_layer_that_is_not_linear_is_told_where_it_matters():
    head = nn.Linear(5, 3)
    check_head(head, output(head, 1.0), ["vim"])
    check_head(head, output(head, 4.0), [])
    check_head(None, output(head, 4.0), ["vim"])
    with pytest.raises(UserError, match="baseline vim needs a linear last layer"):
        check_head(head, output(head, 4.0), ["vim", "she"])
