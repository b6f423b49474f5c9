"""Small random models for tests of the method."""

import timm
import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn import functional as F

from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule
from tests.helpers.reference_networks import NoiseNetwork

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 4,
    "num_class_embeds": 4,
}


def tiny_unet(channels=1, size=8, classes=None, seed=0):
    """A diffusers U-Net in eval mode; with classes, the last label means none."""
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        num_class_embeds=None if classes is None else classes + 1,
    ).eval()


def two_layers(channels=3, size=8, classes=None, seed=0):
    """Two convolutions, which are much faster than a U-Net."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "conv1_w": (8, channels, 3, 3),
        "conv1_b": (8,),
        "w_t": (8,),
        "conv2_w": (channels, 8, 3, 3),
        "conv2_b": (channels,),
    }
    if classes is not None:
        shapes["emb"] = (classes + 1, 8)
    scale = {"conv2_w": 0.2, "conv1_w": 0.3}
    weights = {
        name: torch.randn(shape, generator=generator) * scale.get(name, 0.5)
        for name, shape in shapes.items()
    }
    return NoiseNetwork(weights, size)


class Clocked(nn.Module):
    """A network whose first channel is pure noise, so that it marks the depth of a state."""

    def __init__(self, network):
        super().__init__()
        self.network, self.config = network, network.config

    def forward(self, x, t, class_labels=None):
        output = self.network(x, t, class_labels=class_labels)
        output.sample = output.sample.clone()
        output.sample[:, 0] = 1.0
        return output


def stops_by_image(state, image):
    """A quality that falls below 0 at the depth in the image, see `ask_for_depth`."""
    return image[:, 1, 0, 0] - state[:, 0, 0, 0]


def ask_for_depth(images, plan, steps):
    """Store in each image its number of inversion steps with a `Clocked` network."""
    levels = (1 - plan.alphas).sqrt()
    below = torch.cat([levels.new_zeros(1), levels[:-1]])
    images = images.clone()
    images[:, 0] = 0.5
    images[:, 1, 0, 0] = (((levels + below)[steps - 1] / 2 + 1) / 2).to(images)
    return images


def denoiser_of(network, classes=None, schedule=None, **options):
    """A network of square images, as a denoiser."""
    schedule = schedule or NoiseSchedule.linear()
    size, channels = network.config["sample_size"], network.config["in_channels"]
    return PixelDenoiser(
        network, schedule, size, channels, num_classes=classes, null_class=classes, **options
    ).eval()


def tiny_classifier(classes=5, channels=3, seed=0):
    """A convolutional classifier in eval mode."""
    torch.manual_seed(seed)
    network = SmallCNN(classes, in_channels=channels, width=4)
    return Classifier(network, classes, channels=channels).eval()


def smooth_classifier(images):
    """A twice differentiable classifier of any size, for accurate finite differences."""
    weight = torch.linspace(-1, 1, 4 * 3 * 9, dtype=images.dtype).sin().view(4, 3, 3, 3)
    return torch.tanh(F.conv2d(images, 2 * weight, padding=1)).mean((2, 3)) * 5


def tiny_transformer(size=32, **options):
    """A timm vision transformer with patches of 8 pixels, in eval mode."""
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=size, patch_size=8, depth=2,
        num_classes=7, **options,
    )  # fmt: skip
    return Classifier(network, 7).eval()


def sound_plan(steps=8, **options):
    """The default plan: even steps, target pairing."""
    return SamplingPlan.build(NoiseSchedule.linear(), steps, **options)
