import pytest
import torch

from diffguard.classifiers.small_cnn import SmallCNN, TimedCNN


def network(**options):
    torch.manual_seed(0)
    return SmallCNN(5, **{"width": 4, **options})


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 28), (1, 8), (3, 33), (1, 4)])
def test_images_become_logits(channels, side):
    images = torch.rand(3, channels, side, side)
    assert network(in_channels=channels).eval()(images).shape == (3, 5)


def test_stages_halve_the_side_and_double_the_width():
    shapes = {}
    model = network()
    for name in ("stage1", "stage2", "stage3"):
        getattr(model, name).register_forward_hook(
            lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
    model(torch.rand(2, 1, 28, 28))
    assert shapes == {"stage1": (4, 28, 28), "stage2": (8, 14, 14), "stage3": (16, 7, 7)}
    assert model.fc.in_features == 16


def test_the_head_sees_the_spatial_mean():
    model = network().eval()
    caught = {}
    model.stage3.register_forward_hook(lambda _m, _i, out: caught.update(maps=out))
    logits = model(torch.rand(2, 1, 12, 12))
    torch.testing.assert_close(logits, model.fc(caught["maps"].mean((2, 3))))


def test_dropout_acts_only_in_training():
    model, images = network(dropout=0.5), torch.rand(4, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_it_learns_to_distinguish_two_patterns():
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(32, 1, 8, 8, generator=generator)
    labels = torch.arange(32) % 2
    images[labels == 1, :, :, :4] += 0.6
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert torch.equal(model.eval()(images).argmax(1), labels)


def test_a_timed_network_sees_the_timestep_of_each_row():
    torch.manual_seed(0)
    model, images = TimedCNN(5, width=4).eval(), torch.rand(1, 1, 8, 8).expand(3, -1, -1, -1)
    with torch.no_grad():
        logits = model(images, torch.tensor([0, 1, 999]))
        assert logits.shape == (3, 5)
        assert not torch.equal(logits[0], logits[1])
        torch.testing.assert_close(model(images, torch.tensor([999, 999, 0]))[0], logits[2])
        assert model(torch.rand(2, 1, 13, 9), torch.tensor([3, 4])).shape == (2, 5)
