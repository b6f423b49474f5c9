"""A network that cannot serve as the protected classifier is noticed before it is used."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffguard.classifiers.classifier import Classifier
from diffguard.errors import UserError
from diffguard.methods.classifier_trial import looks_like_sigmoid, try_classifier
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, after=lambda logits: logits, between=lambda features: features):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)
        self.after, self.between = after, between

    def forward(self, x):
        return self.after(self.fc(self.between(self.body(x).mean((2, 3)))))


def settings(kind="classifier", cam=None, baselines=("msp",)):
    guidance = ClassifierFreeSettings(cam_cut=cam)
    if kind == "classifier":
        guidance = ClassifierGuidanceSettings()
    return DetectorSettings(
        guidance=guidance, baselines=list(baselines), fused=[], decision="diffguard"
    )


def attempt(network, **choices):
    try_classifier(Classifier(network, 3).eval(), IMAGES, settings(**choices))


@pytest.mark.parametrize("choices", [{}, {"kind": "classifier_free", "cam": 0.2}])
def test_a_sound_network_passes(choices):
    attempt(Net(), **choices)


def refuse_other_sizes(features):
    raise ValueError("only\n32 px")


@pytest.mark.parametrize(
    ("network", "choices", "message"),
    [
        (Net(lambda x: x.softmax(-1)), {}, "gives probabilities"),
        (Net(lambda x: x.log_softmax(-1)), {"baselines": ["energy"]}, "energy is always 0"),
        (Net(lambda x: x / 0), {}, "not finite"),
        (Net(between=lambda x: F.dropout(x, 0.5)), {}, "without randomness in evaluation mode"),
        (Net(lambda x: x + torch.rand_like(x)), {}, "without randomness in evaluation mode"),
        (Net(between=torch.detach), {}, "no gradient .*guidance classifier needs"),
        (
            Net(between=torch.detach),
            {"kind": "classifier_free", "cam": 0.2},
            "no gradient .*cam_cut needs",
        ),
        (Net(between=refuse_other_sizes), {}, r"fails on images of 8 × 8 .*only 32 px"),
        (Net(lambda x: x[:, :2]), {}, "check the number of classes"),
    ],
)
def test_the_failure_of_a_network_is_named(network, choices, message):
    with pytest.raises(UserError, match=message) as caught:
        attempt(network, **choices)
    assert "\n" not in str(caught.value)


def test_gradients_are_required_only_if_they_are_used():
    attempt(Net(between=torch.detach), kind="classifier_free")
    attempt(Net(lambda x: x.log_softmax(-1)))


def test_outputs_of_a_sigmoid_are_recognized():
    logits = torch.tensor([[-0.1, 0.4], [0.9, 0.2]])
    assert not looks_like_sigmoid(logits)
    assert looks_like_sigmoid(logits.sigmoid())
