import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from diffguard.classifiers.cam import cam_maps, cam_mask, grad_cam, scale_cam
from diffguard.classifiers.classifier import Classifier
from diffguard.errors import UserError
from tests.helpers.tiny_models import tiny_classifier, tiny_transformer


def images(n=3, side=28):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_equals_the_class_activation_map_of_a_pooled_linear_head():
    # Zhou et al., 2016: there the gradient is the class's weight, divided by the area.
    classifier, x, labels = tiny_classifier(), images(), torch.tensor([0, 4, 2])
    caught = {}
    classifier.network.stage3.register_forward_hook(
        lambda module, inputs, output: caught.update(maps=output)
    )
    cam = grad_cam(classifier, x, labels)
    maps = caught["maps"].detach()
    weights = classifier.network.fc.weight[labels] / maps[0, 0].numel()
    expected = F.relu((weights[:, :, None, None] * maps).sum(1, keepdim=True))
    expected = F.interpolate(expected, size=(28, 28), mode="bilinear")[:, 0]
    assert cam.shape == (3, 28, 28)
    assert cam.dtype == torch.float32
    assert float(cam.max()) > 0
    torch.testing.assert_close(cam, expected.detach())


def test_weights_are_the_mean_gradient_for_every_head():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 49, 5)
    )
    x, labels = images(), torch.tensor([3, 0, 1])
    maps = network[:2](x)
    gradient = network[3].weight[labels].view(3, 4, 7, 7)
    weights = gradient.mean((2, 3), keepdim=True)
    expected = F.relu((weights * maps).sum(1, keepdim=True))
    expected = F.interpolate(expected, size=(28, 28), mode="bilinear")[:, 0]
    cam = grad_cam(Classifier(network, 5), x, labels)
    torch.testing.assert_close(cam, expected.detach())


def test_maps_depend_on_the_label():
    classifier, x = tiny_classifier(), images(1)
    first, second = (grad_cam(classifier, x, torch.tensor([k])) for k in (0, 1))
    assert not torch.equal(first, second)


def test_tokens_become_a_grid_in_reading_order():
    classifier = tiny_transformer()
    patches = torch.arange(16.0).view(1, 16, 1)
    tokens = torch.cat([torch.full((1, 1, 1), -5.0), patches], dim=1)
    assert torch.equal(cam_maps(classifier, tokens)[0, 0], torch.arange(16.0).view(4, 4))


def test_a_classifier_without_maps_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 5))
    with pytest.raises(UserError, match="no layer with spatial feature maps"):
        grad_cam(Classifier(network, 5), images(1), torch.tensor([0]))


maps = st.lists(st.floats(-100, 100, width=32), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(values=maps, cut=st.floats(0.0, 1.0))
def test_masks_of_both_signs_partition_the_map(values, cut):
    scaled = scale_cam(torch.tensor(values).view(1, 3, 4))
    assert float(scaled.min()) == 0.0
    assert float(scaled.max()) <= 1.0
    above, below = cam_mask(scaled, cut), scaled < cut
    assert not bool((above & below).any())
    assert bool((above | below | (scaled == torch.tensor(cut))).all())
    if cut > 0:
        assert torch.equal(cam_mask(scaled, -cut), below)


def test_a_center_crop_leaves_a_margin_without_cam():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(1.0)
        network[3].weight.fill_(1.0)
    x, label = images(1, 32), torch.tensor([1])
    inner = grad_cam(Classifier(network, 2, size=(12, 12), resize=16), x, label)[0]
    # 12 of 16 pixels are seen: 24 of the image's 32, with a margin of 4.
    assert torch.all(inner[6:26, 6:26] > 0)
    assert not inner[:3].any()
    assert not inner[:, 29:].any()
    whole = grad_cam(Classifier(network, 2, size=(12, 12)), x, label)[0]
    assert torch.all(whole > 0)
